"""A small network of every architecture, and what is known of every published one."""

from dataclasses import dataclass

from kineray.config import ModelConfig, SlowFastConfig


@dataclass(frozen=True)
class Small:
    """A network that a test can train, and clips for it: ``frames`` of ``side`` x ``side`` pixels.

    ``accepted``: other (frames, height, width) that it takes; ``refused``: some that it does not.
    """

    config: ModelConfig
    frames: int = 4
    side: int = 32
    accepted: tuple[tuple[int, int, int], ...] = ()
    refused: tuple[tuple[int, int, int], ...] = ()


SMALL: dict[str, Small] = {
    "slowfast": Small(
        SlowFastConfig(
            stage_blocks=(1, 1, 1, 1), width=8, alpha=2, beta_inv=4, head_pool=1, nonlocal_blocks=(0,)
        ),
        accepted=((2, 32, 32), (4, 48, 33), (8, 64, 32)),
        refused=((3, 32, 32),),
    ),
}

# Trainable and frozen parameters with 400 classes of one head. A change here is a change of the architecture.
PARAMETERS: dict[str, int] = {
    "slowfast_r50_4x16": 34_480_216,
    "slowfast_r50_8x8": 34_566_488,
    "slowfast_r101_8x8": 53_774_808,
    "slowfast_r101_nl_8x8": 60_080_088,
    "slowfast_r101_nl_16x8": 60_080_088,
}
