"""The clips of which features are computed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kineray.data import Manifest, Preprocessing, eval_clips
from kineray.data.batches.loader import drawn_clips
from kineray.data.clips.draws import ClipDraws
from kineray.data.manifest.index_cache import IndexCache
from kineray.errors import StorageError
from kineray.training.features.files import Origin


@dataclass(frozen=True)
class ClipRows:
    """A row for each view of each sample of ``manifest``, the views of a sample one after the other.

    ``draws``: of training clips; None for the one clip of a sample that validation sees. ``decoders``: number
    of decoding processes.
    """

    manifest: Manifest
    preprocessing: Preprocessing
    draws: ClipDraws | None
    decoders: int
    indexes: IndexCache | None

    def __len__(self) -> int:
        return len(self.manifest) * self.views

    @property
    def views(self) -> int:
        """Number of rows of a sample."""
        return (self.draws.views or 1) if self.draws else 1

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Of a clip: frames, height, width and channels."""
        side = self.preprocessing.eval_crop if self.draws is None else self.preprocessing.crop
        return self.preprocessing.frames, side, side, self.preprocessing.channels

    def clips(self, rows: range) -> Iterator[tuple[np.ndarray | None, Origin | None]]:
        """The clip of each row, uint8 [T, H, W, C], and its origin if it is not simply one of its sample.

        A validation clip that cannot be decoded is None; training clips are replaced. Raises ManifestError,
        and StorageError for a video that may only be unreachable now.
        """
        if self.draws is None:
            yield from self._of_validation(rows)
            return
        for clips_nthwc, loaded in drawn_clips(
            self.manifest,
            self.preprocessing,
            rows,
            self.draws,
            decoders=self.decoders,
            indexes=self.indexes,
        ):
            for clip_thwc, one in zip(clips_nthwc, loaded, strict=True):
                yield clip_thwc, _checked(Origin(one.sample.id, one.failures)) if one.failures else None

    def _of_validation(self, rows: range) -> Iterator[tuple[np.ndarray | None, Origin | None]]:
        for _, clips_1thwc, _, failure in eval_clips(
            self.manifest,
            self.preprocessing,
            views=1,
            crops=1,
            indices=rows,
            decoders=self.decoders,
            indexes=self.indexes,
        ):
            origin = None if failure is None else _checked(Origin("", (failure,)))
            yield None if clips_1thwc is None else clips_1thwc[0], origin


def _checked(origin: Origin) -> Origin:
    """Raise StorageError for a video that was not read, which need not be damaged."""
    for failure in origin.failures:
        if failure.code == "storage":
            raise StorageError(
                f"cannot be read, so its features cannot be computed: {failure.message}",
                code="unreachable",
                key=failure.uri,
                remedy="try again when it can be read",
            )
    return origin
