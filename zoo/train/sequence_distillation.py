"""Distillation by logits and by all tokens of the last layer, as of Sparsifiner."""
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.task import FeatureDistillationTask
from timm.task.distillation import FeatureDistillationTrainableModule
from torch import Tensor, nn

from ..blocks.layout import prefix_tokens
from ..utils.errors import ZooError


class SequenceModule(FeatureDistillationTrainableModule):
    """A model that returns logits and the sequence of its last layer, normed: ``[B, classes]``, ``[B, 1 + N, C]``."""

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
        student = cast(Any, self.student)
        x = student.forward_features(input)
        return student.forward_head(x), x


class SequenceDistillationTask(FeatureDistillationTask):
    """Learn from the logits and from the tokens of a teacher's last layer.

    ``loss = task_loss_weight * loss(labels) + distill_loss_weight * (divergence(logits) + mean square(tokens))``. The
    divergence is that of timm's LogitDistillationTask; tokens are those of the map, without a class token, and without
    those that the model has dropped, which are zero.

    Args:
        model: Transformer whose ``forward_features`` returns a sequence ``[B, prefix + N, C]``.
        teacher: Another one with the same N and C.
        temperature: Softens both logits.
        **task: Arguments of timm's task: criterion, weights, device, dtype, verbose.

    Raises:
        ZooError: The two have not the same number of channels; in ``forward``, not the same sequences.

    Source: Wei et al., Sparsifiner, arXiv 2303.13755; lim142857/Sparsifiner @ 9a11e26, src/losses.py.
    """

    def __init__(self, model: nn.Module, teacher: nn.Module, temperature: float = 1., **task: Any):
        super().__init__(model, teacher, **task)
        if self.trainable_module.projection is not None:
            raise ZooError('tokens can only be compared with those of a teacher with the same number of channels; give '
                           'another --kd-model-name, or --kd-distill-type logit or feature')
        self.trainable_module = SequenceModule(model)
        self.temperature = temperature
        self.prefixes = prefix_tokens(model), prefix_tokens(teacher)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Images ``[B, C, H, W]`` and targets to loss, logits (output) and the parts of the loss."""
        logits, features = self.trainable_module(input)
        with torch.no_grad():
            teacher = cast(Any, self.teacher)
            wanted = teacher.model.forward_features(teacher.normalize_input(input, self.student_mean, self.student_std))
            opinion = teacher.model.forward_head(wanted)
        p, q = (F.log_softmax(x / self.temperature, dim=-1) for x in (opinion, logits))
        parts = dict(
            task_loss=self.criterion(logits, target),
            kd_loss=F.kl_div(q, p, reduction='batchmean', log_target=True) * self.temperature ** 2,
            sequence_loss=self._compare(features, wanted))
        learned = parts['kd_loss'] + parts['sequence_loss']
        loss = self.task_loss_weight * parts['task_loss'] + self.distill_loss_weight * learned
        return dict(parts, loss=loss, output=logits)

    def _compare(self, features: Tensor, wanted: Tensor) -> Tensor:
        if features.ndim != 3 or wanted.ndim != 3:
            raise ZooError('only models whose last layer has a sequence of tokens, as ViT, can be compared by tokens; '
                           'give --kd-distill-type logit or feature')
        features, wanted = (x[:, first:].float() for x, first in zip((features, wanted), self.prefixes))
        if features.shape != wanted.shape:
            raise ZooError(f'the model has {features.shape[1]} tokens in its last layer, the teacher '
                           f'{wanted.shape[1]}; give --kd-distill-type logit or feature')
        kept = (features != 0).any(-1, keepdim=True)
        return ((features - wanted).square() * kept).sum() / (kept.sum() * features.shape[-1])
