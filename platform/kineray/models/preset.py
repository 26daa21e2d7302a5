"""What a published model is, besides its weights."""

from dataclasses import dataclass

from kineray.config import ModelConfig


@dataclass(frozen=True)
class ModelPreset:
    """An architecture and the clips it was published with.

    ``frames`` frames, ``stride`` / 30 s apart (0: spread over the whole segment), of ``side`` x ``side``
    pixels in evaluation, with ``channels`` channels. ``source``: the paper or code that defines it;
    ``study``: those of the five studies that use it.
    """

    config: ModelConfig
    frames: int
    stride: int
    side: int
    source: str
    study: str
    channels: int = 3
