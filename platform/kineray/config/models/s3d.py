"""Inception-v1 for videos: S3D and I3D."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from kineray.config.clip_checks import check_sides, wrong_clip
from kineray.config.fields import PositiveInt, Probability
from kineray.config.models.base import ModelSection

_FRAMES = 5  # smallest number that leaves one frame after three halvings
_SIDE = 17  # smallest side that leaves one position after five halvings


def _eighths(width: int) -> int:
    if width % 8:
        raise ValueError(f"{width} is not a multiple of 8, which the narrowest branches need")
    return width


class S3DConfig(ModelSection, type="s3d", builds="kineray.models.s3d.S3D"):
    """Inception-v1 inflated; the defaults are S3D (Xie et al., arXiv 1712.04851).

    ``convolutions``: the form of those larger than 1 x 1 x 1: separable, 1 x k x k then k x 1 x 1; or full,
    k x k x k, which makes it I3D (Carreira and Zisserman, arXiv 1705.07750). ``width``: channels of the
    stem; all other layers are scaled in proportion. ``norm_momentum``: momentum of the running statistics
    of batch norm; at the published 0.001 they need thousands of steps, so use 0.1 for a run of hundreds.
    """

    convolutions: Literal["separable", "full"] = "separable"
    width: Annotated[PositiveInt, AfterValidator(_eighths)] = 64
    dropout: Probability = 0.2
    norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.001

    def check_clip(self, frames: int, crop: int, eval_crop: int) -> None:
        """Raise ConfigError for clips that are too short or too small for the strides and pools."""
        if frames < _FRAMES:
            raise wrong_clip("frames", frames, "too few for s3d", f"give at least {_FRAMES}")
        check_sides(crop, eval_crop, _SIDE, "too small for s3d")
