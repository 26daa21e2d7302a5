"""Workers that are slower than the others: which, why and since when."""

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from kineray.training.events import StragglerEvent

CAUSES = ("data wait", "copy", "compute")  # what a worker's part of a step consists of, in this order

_WINDOW = 32  # steps
_AT_LEAST = 30  # of them, in which a straggler is slower; by chance, that happens once in 8 million windows
_CHECK_EVERY = 8
_EXCESS = 0.2  # by how much longer a straggler's part takes
_TIE = 0.02  # smaller differences, relative to a worker's part of a step, are none


class Stragglers:
    """Compares the workers' parts of each step, which they make before they wait for each other.

    A worker is a straggler if one of the causes makes its part at least a fifth longer than that of the
    typical worker (the median; of two, the faster one), in nearly every one of the last 32 steps. It is
    reported once, and again if it has recovered in between.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        """``hosts``: the name of each worker's host, in rank order."""
        self._hosts = hosts
        self._steps: deque[tuple[int, np.ndarray]] = deque(maxlen=_WINDOW)
        self._reported: set[tuple[int, int]] = set()

    def __call__(self, step: int, seconds_rc: Sequence[Sequence[float]]) -> Iterator[StragglerEvent]:
        """Take the ``seconds_rc[rank][cause]`` of ``step``; yields the stragglers that it shows.

        Seconds may be relative to the size of each worker's part.
        """
        self._steps.append((step, np.asarray(seconds_rc, dtype=float)))
        if len(self._hosts) < 2 or len(self._steps) < _WINDOW or step % _CHECK_EVERY:
            return
        seconds_trc = np.stack([seconds for _, seconds in self._steps])
        typical_tc = np.sort(seconds_trc, axis=1)[:, (len(self._hosts) - 1) // 2]
        part_s = float(np.median(typical_tc.sum(axis=1)))
        more_trc = seconds_trc - typical_tc[:, None]
        is_slower_trc = more_trc > _TIE * part_s
        slow_steps_rc = is_slower_trc.sum(axis=0)
        more_rc = np.median(more_trc, axis=0)
        self._reported &= {
            (rank, cause) for rank, cause in np.argwhere(slow_steps_rc > _WINDOW // 2).tolist()
        }
        for rank, cause in np.argwhere((slow_steps_rc >= _AT_LEAST) & (more_rc > _EXCESS * part_s)).tolist():
            if (rank, cause) in self._reported:
                continue
            self._reported.add((rank, cause))
            first = int(np.argmax(is_slower_trc[:, rank, cause]))
            yield StragglerEvent(
                step=step,
                rank=rank,
                host=self._hosts[rank],
                cause=CAUSES[cause],
                ratio=1 + float(more_rc[rank, cause]) / part_s,
                since=self._steps[first][0],
            )
