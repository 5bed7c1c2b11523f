"""A fair comparison of token mixers: one host, one recipe, one data set, several seeds (``python -m zoo arena``)."""
