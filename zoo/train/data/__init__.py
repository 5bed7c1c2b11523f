"""Data sets, how they are sampled and augmented, and the loaders over them."""
