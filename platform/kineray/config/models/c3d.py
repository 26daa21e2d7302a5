"""The C3D network."""

from kineray.config.fields import PositiveInt, Probability
from kineray.config.models.base import ModelSection

FRAMES, SIDE = 16, 112  # what the fully connected layers are made for


class C3DConfig(ModelSection, type="c3d", builds="kineray.models.c3d.C3D"):
    """C3D (Tran et al., arXiv 1412.0767): clips of exactly 16 frames of 112 x 112 pixels.

    ``width``: channels of the first convolution; fc6 and fc7 have 64 times as many units.
    """

    width: PositiveInt = 64
    dropout: Probability = 0.5

    def check_clip(self, frames: int, crop: int, eval_crop: int) -> None:
        """Raise ValueError unless the clips have 16 frames of 112 x 112 pixels."""
        if frames != FRAMES:
            raise ValueError(f"data.frames {frames} is not {FRAMES}, the only number that C3D takes")
        for key, side in (("data.crop", crop), ("data.eval_crop", eval_crop)):
            if side != SIDE:
                raise ValueError(f"{key} {side} is not {SIDE}, the only size that C3D takes")
