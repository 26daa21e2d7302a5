"""Inception-v3 for videos: S3D-v3."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from kineray.config.clip_checks import check_sides, wrong_clip
from kineray.config.fields import PositiveInt, Probability
from kineray.config.models.base import ModelSection

_SMALLEST = 49  # frames and pixels: 7 after the three padded halvings, 1 after the two that are not padded


def _even(width: int) -> int:
    if width % 2:
        raise ValueError(f"{width} is odd; the widths of other layers are multiples of half of it")
    return width


class S3DV3Config(ModelSection, type="s3d_v3", builds="kineray.models.s3d_v3.S3DV3"):
    """Inception-v3 (Szegedy et al., arXiv 1512.00567) with separable spatio-temporal convolutions.

    ``temporal_from``: layers up to this one (of 18, see ``kineray.models.s3d_v3``) have 2D convolutions
    only, later ones have temporal convolutions too: 0 is S3D-v3, 9 the top-heavy variant, 18 an image
    network. ``auxiliary``: whether the auxiliary classifier, which is used in training only, has batch norm
    or dropout. ``width``: channels of the first layer; all other layers are scaled in proportion.
    """

    temporal_from: Annotated[int, Field(ge=0, le=18)] = 0
    auxiliary: Literal["batch_norm", "dropout"] = "batch_norm"
    width: Annotated[PositiveInt, AfterValidator(_even)] = 32
    dropout: Probability = 0.5

    def check_clip(self, frames: int, crop: int, eval_crop: int) -> None:
        """Raise ConfigError for clips that are too short or too small for the strides and pools."""
        if frames < _SMALLEST:
            raise wrong_clip("frames", frames, "too few for s3d_v3", f"give at least {_SMALLEST}")
        check_sides(crop, eval_crop, _SMALLEST, "too small for s3d_v3")
