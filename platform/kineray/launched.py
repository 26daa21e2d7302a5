"""Processes that torchrun, or a script of Slurm in its place, has started together."""

import os
from dataclasses import dataclass

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """This process among those that were started together.

    ``rank`` of ``world_size``, ``local_rank`` of ``local_world_size`` on this host. ``attempt``: how often
    torchrun has started all of them again.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    attempt: int = 0


def launched() -> Launch | None:
    """What the environment says of this process, as torchrun sets it; None if it was started alone."""
    values = os.environ
    if not all(values.get(name) for name in _NEEDED):
        return None
    size = int(values["WORLD_SIZE"])
    return Launch(
        rank=int(values["RANK"]),
        world_size=size,
        local_rank=int(values.get("LOCAL_RANK", 0)),
        local_world_size=int(values.get("LOCAL_WORLD_SIZE", size)),
        attempt=int(values.get("TORCHELASTIC_RESTART_COUNT", 0)),
    )
