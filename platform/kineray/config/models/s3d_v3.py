"""Inception-v3 for videos: S3D-v3."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from kineray.config.fields import PositiveInt, Probability
from kineray.config.models.base import ModelSection

_SMALLEST = 49  # frames and pixels: 7 after the three padded halvings, 1 after the two that are not padded


def _even(width: int) -> int:
    if width % 2:
        raise ValueError(f"{width} is odd; the narrower layers have multiples of a half of it")
    return width


class S3DV3Config(ModelSection, type="s3d_v3", builds="kineray.models.s3d_v3.S3DV3"):
    """Inception-v3 (Szegedy et al., arXiv 1512.00567) with separable spatio-temporal convolutions.

    ``temporal_from``: layers up to this one (of 18, see ``kineray.models.s3d_v3``) have 2D convolutions only,
    those after it temporal ones too; 0 is S3D-v3, 9 the top-heavy variant, 18 an image network.
    ``auxiliary``: whether the auxiliary classifier, which exists for training, has batch norm or dropout.
    ``width``: channels of the first layer; all others are in proportion.
    """

    temporal_from: Annotated[int, Field(ge=0, le=18)] = 0
    auxiliary: Literal["batch_norm", "dropout"] = "batch_norm"
    width: Annotated[PositiveInt, AfterValidator(_even)] = 32
    dropout: Probability = 0.5

    def check_clip(self, frames: int, crop: int, eval_crop: int) -> None:
        """Raise ValueError for clips of which strides and pools leave nothing."""
        if frames < _SMALLEST:
            raise ValueError(f"data.frames {frames} is too few for s3d_v3: at least {_SMALLEST}")
        for key, side in (("crop", crop), ("eval_crop", eval_crop)):
            if side < _SMALLEST:
                raise ValueError(f"data.{key} {side} is too small for s3d_v3: at least {_SMALLEST}")
