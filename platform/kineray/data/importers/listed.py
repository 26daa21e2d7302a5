"""Clips that annotations list more than once."""

import logging

from kineray.errors import ManifestError

logger = logging.getLogger(__name__)


class Listed:
    """The clips that annotations have listed so far, so that none becomes two samples."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, object, str]] = {}
        self._repeated: list[str] = []

    def is_new(self, clip: str, where: str, label: object, split: str) -> bool:
        """Whether a clip is listed for the first time; ``where``: file and line.

        Raises ManifestError, which names both lines, if it was listed with another label or split before.
        """
        first = self._first.setdefault(clip, (where, label, split))
        if first[0] == where:
            return True
        if first[1:] != (label, split):
            what = f"in {first[2]} too" if first[2] != split else "with another label too"
            raise ManifestError(
                f"{clip} is listed {what}, in {first[0]}",
                code="leak" if first[2] != split else "wrong_labels",
                key=where,
                remedy="leave out one of the two",
            )
        self._repeated.append(f"{where} ({clip}, as in {first[0]})")
        return False

    def log(self) -> None:
        """Log how many lines were repetitions."""
        if self._repeated:
            logger.warning(
                "lines that repeat another one left out: %d, such as %s",
                len(self._repeated),
                self._repeated[0],
            )
