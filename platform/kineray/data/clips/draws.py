"""Which clip of a sample an epoch shows, as a pure function."""

from dataclasses import dataclass
from typing import Self

from kineray.config import DataConfig


@dataclass(frozen=True)
class ClipDraws:
    """How training clips are drawn.

    ``seed``: of the experiment. ``views``: number of clips of a sample that epochs take in turns; None for a
    new one each time, 0 for the clip of evaluation, which is not random. ``clips_per_sample``: clips of a
    sample in an epoch.
    """

    seed: int
    views: int | None = None
    clips_per_sample: int = 1

    @classmethod
    def of(cls, data: DataConfig, seed: int) -> Self:
        """Those of an experiment with this ``data`` section and ``seed``."""
        return cls(seed, data.drawn_views, data.clips_per_sample)

    @property
    def is_random(self) -> bool:
        """Whether clips are drawn, and not those of evaluation."""
        return self.views != 0

    def view(self, epoch: int, repeat: int) -> int:
        """The number of the view that is shown; ``repeat``: how often the epoch has shown the sample before.

        There must be ``views``.
        """
        return (epoch * self.clips_per_sample + repeat) % self.views if self.views else 0

    def key(self, epoch: int, repeat: int) -> tuple[int, int, int]:
        """Seed, epoch and repeat from which ``sample_rng`` makes the random numbers of the clip.

        View v is the clip that a run without ``views`` shows as the sample's v-th.
        """
        if self.views is None:
            return self.seed, epoch, repeat
        return self.key_of_view(self.view(epoch, repeat))

    def key_of_view(self, view: int) -> tuple[int, int, int]:
        """``key`` of the clips that are a view. Clips that are not random do not depend on the seed."""
        return (self.seed if self.is_random else 0, *divmod(view, self.clips_per_sample))
