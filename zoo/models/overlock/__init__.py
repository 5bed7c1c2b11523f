"""OverLoCK: an overview of the image first, then a close look that the overview guides.

Lou, Yu, "OverLoCK: An Overview-first-Look-Closely-next ConvNet with Context-Mixing Dynamic Kernels", CVPR 2025, arXiv
2502.20087. Reference: LMMMEng/OverLoCK @ 2c8ab3b29e3a11fb4a2510d98e4d9ed8b33cf091 (Apache-2.0).

A base net runs to stride 16. From there an overview net goes to stride 32 at once and, projected to a quarter of its
channels, becomes a context; a focus net takes up the base net's map again and runs to stride 32, with the context
behind its channels in every block. Its blocks convolve dynamically (``blocks.mixers.context_mixing``): each pixel's
kernels come from its agreement with 7 x 7 regions of the context, ``softmax(W q K^T + b + relative bias)``. Base and
overview blocks convolve with large kernels that are trained as sums of dilated ones; ``reparameterize()`` makes them
single convolutions, which is what the ``*_reparam`` models are built of.

The overview has a classifier of its own, for training. After ``set_auxiliary_training(True)`` the model returns the
logits of both in training mode, main ones first: the paper's loss is that of the first plus 0.4 times that of the
second.

Departures of the released code from the paper: layer scales are on the shortcuts, with a bias, and start at 1; stages 1
and 2 have none. A map smaller than the largest kernel is interpolated to its size, and the result pooled back. For
detection the four maps are normed, the base net goes on with the normed map of stage 2, and the normed overview is
projected and added to the last map.
"""
from .family import OverLoCK  # noqa: F401  (registers the models, whose entrypoints are the rest of this module)
