"""The version of the zoo, in this place only; the wheel reads it here."""
__version__ = '0.1.0'
