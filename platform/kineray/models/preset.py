"""What a published model is, besides its weights."""

from dataclasses import dataclass
from typing import Literal

from kineray.config import DataConfig, ModelConfig

Study = Literal["slowfast", "st_resnet", "s3d", "convnets", "egocentric"]


@dataclass(frozen=True)
class ModelPreset:
    """An architecture and the clips it was published with.

    ``frames`` frames, ``stride`` / 30 s apart (0: spread over the whole segment), of ``side`` x ``side``
    pixels in evaluation. ``channels``: of RGB, of flow (an even number), or of both. ``source``: the paper
    or code that defines it; ``study``: which script of ``experiments/`` is for it.
    """

    config: ModelConfig
    frames: int
    stride: int
    side: int
    source: str
    study: Study
    channels: int = 3

    @property
    def data(self) -> DataConfig:
        """Such clips. A network that is evaluated at 256 was trained at 224, others at ``side``."""
        clips: dict[str, object] = {"frames": self.frames, "sampling": "dense" if self.stride else "uniform"}
        if self.stride:
            clips["stride"] = self.stride
        rgb = 3 * (self.channels % 2)  # flow has u and v
        flow = self.channels - rgb
        if flow:
            kind = "flow" if flow == 2 else "flow_stack"
            clips["modality"] = f"rgb_{kind}" if rgb else kind
            clips |= {"mean": (0.45,) * rgb + (0.5, 0.5), "std": (0.225,) * rgb + (0.226, 0.226)}
        if flow > 2:
            clips["stack"] = flow // 2
        if self.side != 256:
            low, high = round(self.side * 8 / 7), round(self.side * 10 / 7)
            clips |= {"crop": self.side, "short_side": (low, high)}
            clips |= {"eval_crop": self.side, "eval_short_side": low}
        return DataConfig.model_validate(clips)
