"""Pseudo-3D residual networks."""

from pydantic import field_validator

from kineray.config.clip_checks import wrong_clip
from kineray.config.fields import Names, PositiveInt, PositiveInts4, Probability
from kineray.config.models.base import ModelSection

TEMPORAL_STRIDE = 16  # each of four pools halves the number of frames


class P3DConfig(ModelSection, type="p3d", builds="kineray.models.p3d.P3D"):
    """Pseudo-3D residual networks (Qiu et al., arXiv 1711.10305); the defaults are those of 50 layers.

    ``blocks``: kinds of block, used in turn from the first block of res2 to the last of res4. A: spatial
    and temporal convolution in series; B: in parallel; C: in series, with a shortcut around the temporal
    one. A single kind makes the paper's P3D-A, P3D-B or P3D-C network.
    """

    stage_blocks: PositiveInts4 = (3, 4, 6, 3)
    width: PositiveInt = 64
    blocks: Names = ("A", "B", "C")
    dropout: Probability = 0.5

    @field_validator("blocks")
    @classmethod
    def _kinds_are_known(cls, blocks: tuple[str, ...]) -> tuple[str, ...]:
        if not blocks or not set(blocks) <= {"A", "B", "C"}:
            raise ValueError("give some of A, B, C, as in A,B,C")
        return blocks

    def check_clip(self, frames: int, crop: int, eval_crop: int) -> None:
        """Raise ConfigError unless the number of frames can be halved four times."""
        if frames % TEMPORAL_STRIDE:
            raise wrong_clip("frames", frames, f"P3D needs a multiple of {TEMPORAL_STRIDE}")
