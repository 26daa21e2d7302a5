"""The C3D network."""

from kineray.config.clip_checks import wrong_clip
from kineray.config.fields import PositiveInt, Probability
from kineray.config.models.base import ModelSection

FRAMES, SIDE = 16, 112  # the fully connected layers fit no other clips


class C3DConfig(ModelSection, type="c3d", builds="kineray.models.c3d.C3D"):
    """C3D (Tran et al., arXiv 1412.0767): clips of exactly 16 frames of 112 x 112 pixels.

    ``width``: channels of the first convolution; fc6 and fc7 have 64 times as many units.
    """

    width: PositiveInt = 64
    dropout: Probability = 0.5

    def check_clip(self, frames: int, crop: int, eval_crop: int) -> None:
        """Raise ConfigError unless the clips have 16 frames of 112 x 112 pixels."""
        for key, given, wanted in (
            ("frames", frames, FRAMES),
            ("crop", crop, SIDE),
            ("eval_crop", eval_crop, SIDE),
        ):
            if given != wanted:
                raise wrong_clip(key, given, f"C3D takes exactly {wanted}")
