"""Tries models with the tools that users take them to."""
