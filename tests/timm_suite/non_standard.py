"""Our models whose features are a sequence ``[B, P + N, C]`` and no map: those with tokens before those of the map."""
from zoo.hosts.plain import PlainWithTokens
from zoo.registry import FAMILIES

NON_STD = [
    variant.name for family in FAMILIES if isinstance(family.host, type) and issubclass(family.host, PlainWithTokens)
    for variant in family.variants]
