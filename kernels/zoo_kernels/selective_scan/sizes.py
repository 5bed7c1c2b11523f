"""Sizes of the kernels' blocks, which the launches and the checks of calls need before triton is imported."""

PLACES = 16  # of a block
STATES = 16  # of a block of channels with decays of their own: at most so many
HEAD_STATES = 64  # of a head, at most: the states of a program have to fit into its registers
CHANNELS, HEAD_CHANNELS = 16, 32  # of a program
DIM = 128  # of a head, at most
