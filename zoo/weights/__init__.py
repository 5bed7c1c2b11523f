"""Reading, checking and converting checkpoints."""
from .checkpoint import read_checkpoint, state_dict_of
from .convert import fit_state_dict

__all__ = ['fit_state_dict', 'read_checkpoint', 'state_dict_of']
