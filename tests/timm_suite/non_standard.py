"""Our models whose features are a sequence ``[B, 1 + N, C]`` and no map: those with a class token."""
from zoo.hosts import ViT
from zoo.models.vidat import ViDAT
from zoo.registry import FAMILIES

HOSTS = ViT, ViDAT
NON_STD = [
    variant.name for family in FAMILIES if isinstance(family.host, type) and issubclass(family.host, HOSTS)
    for variant in family.variants]
