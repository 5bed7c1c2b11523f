"""Fetching, reading, checking and converting checkpoints."""
from .cache import WeightsError
from .checkpoint import read_checkpoint, state_dict_of
from .convert import fit_state_dict
from .official import resolve

__all__ = ['WeightsError', 'fit_state_dict', 'read_checkpoint', 'resolve', 'state_dict_of']
