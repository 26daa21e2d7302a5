"""The learning rate at every moment of training."""

import bisect
import math

from kineray.config import Experiment, RpropConfig


def learning_rate(epoch: float, experiment: Experiment) -> float:
    """Learning rate at a fractional ``epoch``, as PySlowFast computes it at every iteration.

    A half-period cosine from ``optim.lr`` to 0 over ``train.epochs`` (Loshchilov & Hutter, arXiv
    1608.03983) or steps, preceded by a linear warm-up from ``train.warmup_lr`` to the value that the
    schedule has at ``train.warmup_epochs``; all of it scaled by global batch / reference batch (Goyal et
    al., arXiv 1706.02677).
    """
    optim, train = experiment.optim, experiment.train
    scale = 1.0 if isinstance(optim, RpropConfig) else train.global_batch / optim.reference_batch

    def scheduled(at: float) -> float:
        if train.schedule == "steps":
            return optim.lr * train.decay ** bisect.bisect_right(train.decay_epochs, at)
        return optim.lr * 0.5 * (math.cos(math.pi * at / train.epochs) + 1)

    if epoch < train.warmup_epochs:
        progress = epoch / train.warmup_epochs
        return scale * (train.warmup_lr + progress * (scheduled(train.warmup_epochs) - train.warmup_lr))
    return scale * scheduled(min(epoch, train.epochs))
