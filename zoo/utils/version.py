"""The version of the zoo: the only place that says it; the wheel reads it here."""
__version__ = '0.1.0'
