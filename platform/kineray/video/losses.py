"""What of a damaged video cannot be shown."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kineray.errors import DecodeError
from kineray.video.packet_index import DAMAGED, HIDDEN, PacketIndex

logger = logging.getLogger(__name__)

_MOST = 0.5  # of the wanted frames may be lost; the frames before them are shown instead
_warned: set[str] = set()


class Losses:
    """The frames of a video that are lost: those of damaged packets, and all up to the next key frame."""

    def __init__(self, index: PacketIndex) -> None:
        self._index = index
        self._lost = np.zeros(len(index.pts), bool)
        self._damaged: list[int] = []
        for position in np.flatnonzero(index.flags & DAMAGED).tolist():
            self.add(position)

    def __contains__(self, position: int) -> bool:
        return bool(self._lost[position])

    def __len__(self) -> int:
        """Number of frames that are not shown."""
        return int(np.count_nonzero(self._lost))

    def add(self, position: int) -> None:
        """The packet at ``position`` is damaged."""
        self._damaged.append(position)
        index, keys = self._index, self._index.keys
        following = keys[np.searchsorted(keys, position, side="right") :]
        end = int(following[0]) if len(following) else len(index.pts)
        self._lost[position:end] |= (index.flags[position:end] & HIDDEN) == 0
        if len(following):  # what is presented before the next key frame may refer to frames before it
            until = int(following[1]) if len(following) > 1 else len(index.pts)
            self._lost[end:until] |= (index.pts[end:until] < index.pts[end]) & (
                (index.flags[end:until] & HIDDEN) == 0
            )

    def whole(self) -> np.ndarray:
        """Positions of the frames that can be shown, by presentation time: int64 [frames]."""
        shown = self._index.shown
        kept: np.ndarray = shown[~self._lost[shown]]
        return kept

    def spans_s(self) -> list[tuple[float, float]]:
        """The stretches that are lost: (start, end) in seconds since the first frame of the video."""
        index = self._index
        lost = self._lost[index.shown]
        ends_s = np.append(index.times_s[1:], index.duration_s)
        edges = np.flatnonzero(np.diff(lost, prepend=False, append=False))
        return [
            (float(index.times_s[first]), float(ends_s[end - 1]))
            for first, end in edges.reshape(-1, 2).tolist()
        ]

    def marked(self) -> PacketIndex:
        """The index in which the damaged packets that were found are marked."""
        flags = self._index.flags.copy()
        flags[self._damaged] |= DAMAGED
        return replace(self._index, flags=flags)

    def check(self, name: str, times_s: np.ndarray) -> None:
        """Raise DecodeError if most of the frames at ``times_s`` are lost; log a warning if some are."""
        index = self._index
        shown = np.searchsorted(index.times_s, times_s + 1e-6, side="right") - 1
        lost = np.count_nonzero(self._lost[index.shown[shown.clip(0)]])
        if lost > _MOST * len(times_s):
            raise self.error(name)
        if lost and name not in _warned:
            _warned.add(name)
            logger.warning("%s: %s; the frame before is shown there", name, self)

    def error(self, name: str) -> DecodeError:
        """The error (``truncated``) of clips that lie in the damaged part of a video."""
        return DecodeError(str(self), code="truncated", key=name, remedy="use other parts of the video")

    def __str__(self) -> str:
        return describe(self.spans_s())


def describe(spans_s: Sequence[tuple[float, float]]) -> str:
    """``damaged from 1.20 to 1.44 s and in 2 more places``."""
    (start, end), *others = spans_s
    more = f" and in {len(others)} more place{'s' * (len(others) > 1)}" if others else ""
    return f"damaged from {start:.2f} to {end:.2f} s{more}"
