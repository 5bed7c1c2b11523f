"""Generates model cards, and tables of README and docs/, from docstrings, the table of weights and measured results."""
from .card import card

__all__ = ['card']
