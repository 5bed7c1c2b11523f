"""OverLoCK: a focus net, guided by an overview of the whole image.

Lou, Yu, "OverLoCK: An Overview-first-Look-Closely-next ConvNet with Context-Mixing Dynamic Kernels", CVPR 2025, arXiv
2502.20087. Reference: LMMMEng/OverLoCK @ 2c8ab3b29e3a11fb4a2510d98e4d9ed8b33cf091 (Apache-2.0).

A base net computes a map of stride 16. An overview net continues to stride 32; its map, projected to a quarter of its
channels, is the context. A focus net starts from the base net's map and continues to stride 32, with the context
concatenated to its channels in every block. Its blocks use dynamic convolutions (``blocks.mixers.context_mixing``): the
kernels of each pixel are computed from its affinities with 7 x 7 regions of the context,
``softmax(W q K^T + b + relative bias)``. Base and overview blocks have large kernels, which are trained as sums of
dilated ones; ``reparameterize()`` merges them into single convolutions, as in the ``*_reparam`` models.

The overview has its own classifier for training. After ``set_auxiliary_training(True)`` the model returns the logits of
both classifiers in training mode, the main ones first; the paper's loss is that of the first plus 0.4 times that of the
second.

Departures of the released code from the paper: layer scales are on the shortcuts, with a bias, and are initialised to
1; stages 1 and 2 have none. A map smaller than the largest kernel is interpolated to its size, and the result is pooled
back. For detection the four maps are normalised, the base net continues with the normalised map of stage 2, and the
normalised overview is projected and added to the last map.
"""
from .family import OverLoCK  # noqa: F401  (registers the models, whose entrypoints are the rest of this module)
