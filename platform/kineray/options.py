"""The knobs of a run that are not science: they decide how workers work, not what they compute; defaults.

Imports nothing slow: the command line makes its options from the fields below.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Self

from kineray.durations import seconds_of
from kineray.errors import ConfigError

# Of a prediction, by Python, command line and endpoint: clips along time, crops of each, classes of a head.
DEFAULT_VIEWS = 1
DEFAULT_CROPS = 1
DEFAULT_TOP_K = 5

# Of a sweep: what proposes points, and what ends trials early.
SEARCHERS = ("tpe", "random", "grid", "cmaes", "gp", "evolution")
SCHEDULERS = ("asha", "halving", "hyperband", "median", "none")


# Units of options: a time such as 10m, and a number of steps or a time.
TIME = "TIME"
INTERVAL = "STEPS|TIME"

_A_TIME = "a time such as 90s, 10m or 1h30m"


def _knob(default: Any, help: str, *, at_least: int = 1, unit: str = "") -> Any:
    return field(default=default, metadata={"help": help, "at_least": at_least, "unit": unit})


@dataclass(frozen=True)
class WorkerOptions:
    """How every worker does its part of an experiment; the same value serves training runs and trials.

    None of it is part of the fingerprint: a run may be resumed with other options and gives the same
    weights. ``None`` leaves the choice to kineray. A field's metadata are what the command line shows:
    ``help``, the smallest value (``at_least``) and the ``unit`` of a number. Raises ConfigError
    (``out_of_range``) for a value that is not a whole number of at least that size (or, for an interval, a
    time).
    """

    micro_batch: int | None = _knob(
        None, "Clips a worker holds at once, a multiple of train.bn_group [default: one group]."
    )
    checkpoint_every: int | str = _knob(
        "10m", "Save checkpoints this often between validations, such as 500 or 90s.", unit=INTERVAL
    )
    snapshot_every: int | None = _knob(
        None,
        "Keep the training state in the memory of every host every STEPS steps; 0: never "
        "[default: as often as costs 1 % of the time].",
        at_least=0,
        unit="STEPS",
    )
    decoders: int | None = _knob(None, "Decoding processes of each worker [default: its CPUs].")
    max_memory: int | None = _knob(
        None,
        "Memory for decoded clips in each worker, such as 4GB [default: enough to keep it busy].",
        unit="SIZE",
    )
    activation_checkpointing: bool = _knob(
        False, "Recompute activations in the backward pass: less device memory for more time."
    )
    cache_features: bool = _knob(
        False, "Train on features that a frozen backbone computes once, in the cache folder."
    )
    max_cache: int | None = _knob(
        None, "Refuse to cache features that take more than this, such as 50GB.", unit="SIZE"
    )
    system_metrics: bool = _knob(False, "Record how busy the hosts and their GPUs are, every ten seconds.")
    tensorboard: bool = _knob(
        False, "Also write the metrics as TensorBoard event files, to `tensorboard` in the run's folder."
    )
    storage_patience: str = _knob(
        "10m",
        "How long a checkpoint waits for room on a full disk, or for a storage that does not answer.",
        unit=TIME,
    )
    max_failures: int = _knob(3, "How many times a lost worker is replaced.", at_least=0)

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            value, least = getattr(self, option.name), option.metadata["at_least"]
            if isinstance(option.default, bool):
                valid, wanted = isinstance(value, bool), "True or False"
            elif option.metadata["unit"] == TIME:
                valid, wanted = isinstance(value, str) and _is_time(value), _A_TIME
            elif isinstance(value, str) and option.metadata["unit"] == INTERVAL:
                valid, wanted = _is_time(value), f"a number of steps, or {_A_TIME}"
            else:
                is_number = isinstance(value, int) and not isinstance(value, bool)
                valid = (is_number and value >= least) or (value is None and option.default is None)
                wanted = f"a whole number of at least {least}"
            if not valid:
                raise ConfigError(
                    f"{value!r} is not {wanted}",
                    code="out_of_range",
                    key=option.name,
                    remedy=f"give `{option.name}` such a value, or leave it out",
                )

    def to_json(self) -> str:
        """One JSON object; ``from_json`` reads it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The options that ``to_json`` wrote."""
        return cls(**json.loads(text))


def _is_time(text: str) -> bool:
    try:
        return seconds_of(text) > 0
    except ValueError:
        return False
