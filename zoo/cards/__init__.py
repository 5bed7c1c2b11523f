"""Generates model cards and README's tables from docstrings, the table of weights and measured results."""
from .card import card

__all__ = ['card']
