"""mmcv's operators are served before any test module imports mmdet; without mmdet the modules skip themselves."""
import importlib.util

if importlib.util.find_spec('mmdet'):
    from zoo.dense import mm_compat
    mm_compat.install()
