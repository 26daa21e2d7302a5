"""The schedulers of a sweep: which trials end early."""

from typing import Any

from kineray.errors import ConfigError
from kineray.options import SCHEDULERS

PAUSING = ("halving", "hyperband")
"""Those in which trials wait for others, and more of them begin than run at the same time."""

_KEEP = 3  # one trial of this many goes on


def check_scheduler(name: str) -> None:
    """Raise ConfigError for an unknown scheduler."""
    if name not in SCHEDULERS:
        raise ConfigError(
            f"not one of {', '.join(SCHEDULERS)}", code="unknown_value", key="scheduler", value=name
        )


def make_scheduler(name: str, epochs: int) -> Any:
    """Ray Tune's scheduler of this name, for trials of up to ``epochs`` epochs.

    ``asha``: asynchronous successive halving; a trial ends at epochs / 9 or epochs / 3 if it is not among the
    best third of those that have come as far. ``halving``: all wait there for all others, so the order in
    which they arrive does not matter. ``hyperband``: the same for several groups, of which some begin with
    fewer trials and longer ones (Li et al., arXiv 1603.06560). ``median``: a trial ends if its best score is
    below the median of the others' averages at the same epoch. ``none``: no trial ends early.
    """
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule

    first = max(1, epochs // _KEEP**2)
    if name == "asha":
        return ASHAScheduler(time_attr="epoch", max_t=epochs, grace_period=first, reduction_factor=_KEEP)
    if name == "median":
        return MedianStoppingRule(time_attr="epoch", grace_period=first)
    if name == "none":
        return FIFOScheduler()
    from kineray.orchestration.halving import SynchronousHalving

    rungs = rungs_of(epochs)
    groups = [rungs] if name == "halving" else hyperband_groups(rungs)
    return SynchronousHalving(groups, _KEEP)


def rungs_of(epochs: int) -> tuple[int, ...]:
    """The epochs after which trials are compared: epochs / 9 and epochs / 3, rounded down."""
    found = {epochs // _KEEP**2, epochs // _KEEP} - {0, epochs}
    return tuple(sorted(found or ({1} - {epochs})))


def hyperband_groups(rungs: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The rungs of the trials 0, 1, ... of HyperBand, in a cycle: most begin with all of the rungs.

    With s + 1 groups, the one that skips k rungs begins with ceil((s + 1) / (s - k + 1) * 3^(s - k)) trials.
    """
    s = len(rungs)
    sizes = [-(-(s + 1) * _KEEP ** (s - k) // (s - k + 1)) for k in range(s + 1)]
    return [rungs[k:] for k, size in enumerate(sizes) for _ in range(size)]
