"""The learning rate at every step of training."""

from collections.abc import Callable

from kineray.config import Experiment


def learning_rate(
    epoch: float, experiment: Experiment, factor: Callable[[float], float] | None = None
) -> float:
    """Learning rate at a fractional ``epoch``, as PySlowFast computes it at every iteration.

    The experiment's schedule, preceded by a linear warm-up from a fraction of ``optim.lr`` to the value that
    the schedule has at its end; all of it scaled by the optimizer for the global batch (Goyal et al., arXiv
    1706.02677). ``factor``: of the learning rate after an epoch, instead of the schedule's.
    """
    optim, schedule, epochs = experiment.optim, experiment.schedule, experiment.train.epochs
    peak = optim.lr * optim.scale(experiment.train.global_batch)
    factor = factor or (lambda epoch: schedule.factor(min(epoch, epochs), epochs))
    if epoch < schedule.warmup_epochs:
        progress = epoch / schedule.warmup_epochs
        target = factor(schedule.warmup_epochs)
        return peak * (schedule.warmup_start + progress * (target - schedule.warmup_start))
    return peak * factor(epoch)
