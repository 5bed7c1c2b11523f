"""Model cards: what a family is and does, from its docstring, the table of weights and measured results."""
from .card import card

__all__ = ['card']
