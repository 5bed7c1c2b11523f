"""Generates model cards and the tables of README and docs/ from docstrings, the table of weights and measured results."""
from .card import card

__all__ = ['card']
