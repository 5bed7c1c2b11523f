"""Download, reading, verification and conversion of checkpoints."""
from .cache import WeightsError
from .checkpoint import check_finite, read_checkpoint, state_dict_of, without_prefix
from .convert import fit_state_dict
from .official import resolve

__all__ = [
    'WeightsError', 'check_finite', 'fit_state_dict', 'read_checkpoint', 'resolve', 'state_dict_of', 'without_prefix']
