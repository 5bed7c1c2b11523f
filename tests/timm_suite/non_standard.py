"""Our models whose features are a sequence ``[B, 1 + N, C]`` and no map: those with a class token."""
from zoo.hosts import ViT
from zoo.registry import FAMILIES

NON_STD = [variant.name for family in FAMILIES if family.host is ViT for variant in family.variants]
