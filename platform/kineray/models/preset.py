"""Published models: a configuration and the clips it was published with."""

from dataclasses import dataclass

from kineray.config import DataConfig, ModelSection, as_arguments
from kineray.config.fields import Sampling

RGB = 3  # channels
USUAL_SIDE = 256  # of clips in evaluation, in pixels


@dataclass(frozen=True)
class ModelPreset:
    """An architecture and the clips it was published with.

    A clip has ``frames`` frames of ``side`` x ``side`` pixels in evaluation, sampled as ``sampling`` says
    (``DataConfig``), ``stride`` / 30 s apart if that sampling has a stride. ``channels``: number of clip
    channels: 3 of RGB, an even number of flow, or both. ``config.init``: the weights that a frozen backbone
    needs. ``source``: the paper or code that defines it; ``study``: the script of ``experiments/`` that
    uses it.
    """

    config: ModelSection
    frames: int
    side: int
    source: str
    study: str = ""
    sampling: Sampling = "dense"
    stride: int = 0
    channels: int = 3

    def clip_overrides(self) -> list[str]:
        """The overrides that give any experiment these clips: ``data.frames=32``, ..."""
        data = self.data
        keys = ["frames", "sampling", "modality", "eval_short_side", "eval_crop"]
        keys += ["short_side", "crop"] if self.side != USUAL_SIDE else []
        keys += ["stride", "fps"] if self.stride else []
        keys += ["mean", "std"] if self.channels != RGB else []
        keys += ["stack"] if data.modality.endswith("stack") else []
        clips = as_arguments(data.model_dump(mode="json"))
        return [f"data.{key}={clips[key]}" for key in keys]

    @property
    def data(self) -> DataConfig:
        """These clips. Networks evaluated at 256 pixels were trained at 224, the others at ``side``."""
        clips: dict[str, object] = {"frames": self.frames, "sampling": self.sampling, "fps": 30}
        if self.stride:
            clips["stride"] = self.stride
        rgb = RGB * (self.channels % 2)  # flow has u and v
        flow = self.channels - rgb
        if flow:
            kind = "flow" if flow == 2 else "flow_stack"
            clips["modality"] = f"rgb_{kind}" if rgb else kind
            clips |= {"mean": (0.45,) * rgb + (0.5, 0.5), "std": (0.225,) * rgb + (0.226, 0.226)}
        if flow > 2:
            clips["stack"] = flow // 2
        if self.side != USUAL_SIDE:
            low, high = round(self.side * 8 / 7), round(self.side * 10 / 7)
            clips |= {"crop": self.side, "short_side": (low, high)}
            clips |= {"eval_crop": self.side, "eval_short_side": low}
        return DataConfig.model_validate(clips)
