"""Multiscale vision transformers."""

from typing import Literal

from kineray.config.clip_checks import wrong_clip
from kineray.config.fields import PositiveInt, PositiveInts4, Probability
from kineray.config.models.base import ModelSection


class MViTConfig(ModelSection, type="mvit", builds="kineray.models.mvit.MViT"):
    """Multiscale vision transformers, as torchvision has them; the defaults are MViTv2-S.

    ``version``: ``v1`` (Fan et al., arXiv 2104.11227) or ``v2`` (Li et al., arXiv 2112.01526), with relative
    positions and residual pooling. ``width``: channels of the first stage, which double from stage to stage.
    ``stage_blocks``: number of blocks of each stage. ``frames`` and ``side``: of its clips, which its
    positional encodings are made for.
    """

    version: Literal["v1", "v2"] = "v2"
    width: PositiveInt = 96
    stage_blocks: PositiveInts4 = (1, 2, 11, 2)
    frames: PositiveInt = 16
    side: PositiveInt = 224
    dropout: Probability = 0.5

    def check_clip(self, frames: int, crop: int, eval_crop: int) -> None:
        """Raise ConfigError for clips of another size than ``frames`` and ``side``."""
        if frames != self.frames:
            raise wrong_clip("frames", frames, f"the model is made for model.frames={self.frames}")
        for key, side in (("crop", crop), ("eval_crop", eval_crop)):
            if side != self.side:
                raise wrong_clip(key, side, f"the model is made for model.side={self.side}")
