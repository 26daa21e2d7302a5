"""Published models by name."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from kineray.config import DataConfig, Experiment, ModelConfig, SlowFastConfig, apply_overrides
from kineray.errors import ConfigError
from kineray.models.slowfast import SlowFast


@dataclass(frozen=True)
class ModelPreset:
    """An architecture and the clip it was published with: ``frames`` frames, ``stride`` / 30 s apart."""

    config: ModelConfig
    frames: int
    stride: int


_R50_4X16 = SlowFastConfig()
_R50_8X8 = SlowFastConfig(alpha=4, fusion_kernel=7)
# The paper's R101: as in R50, only the first six res4 blocks have temporal kernels ("50_50" in PySlowFast).
_R101 = SlowFastConfig(stage_blocks=(3, 4, 23, 3), alpha=4, temporal_blocks=(3, 4, 6, 3))
_R101_NL = _R101.model_copy(update={"nonlocal_blocks": (6, 13, 20)})

MODEL_PRESETS: Mapping[str, ModelPreset] = {
    "slowfast_r50_4x16": ModelPreset(_R50_4X16, frames=32, stride=2),
    "slowfast_r50_8x8": ModelPreset(_R50_8X8, frames=32, stride=2),
    "slowfast_r101_8x8": ModelPreset(_R101, frames=32, stride=2),
    "slowfast_r101_nl_8x8": ModelPreset(_R101_NL, frames=32, stride=2),
    "slowfast_r101_nl_16x8": ModelPreset(_R101_NL, frames=64, stride=2),
}


def list_models() -> list[str]:
    """Names that ``create_model`` knows."""
    return sorted(MODEL_PRESETS)


def create_model(name: str, heads: Mapping[str, int], *, in_channels: int = 3, **overrides: Any) -> nn.Module:
    """A new, randomly initialised model: ``create_model("slowfast_r50_8x8", heads={"action": 400})``.

    ``overrides`` are fields of its configuration (``dropout=0.2``). The model takes normalised clips,
    float [B, ``in_channels``, T, H, W], and returns {head: logits [B, classes]}. Raises ConfigError for an
    unknown name or field.
    """
    if name not in MODEL_PRESETS:
        near = difflib.get_close_matches(name, MODEL_PRESETS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(list_models())}"
        raise ConfigError(f"model '{name}' is not known; {hint}")
    preset = MODEL_PRESETS[name]
    experiment = Experiment(data=DataConfig(frames=preset.frames, stride=preset.stride), model=preset.config)
    config = apply_overrides(experiment, {f"model.{key}": value for key, value in overrides.items()}).model
    return build_model(config, heads, in_channels)


def build_model(config: ModelConfig, heads: Mapping[str, int], in_channels: int = 3) -> nn.Module:
    """A new, randomly initialised model of a configuration, for clips of ``in_channels``.

    Raises ConfigError for unusable heads.
    """
    return SlowFast(config, heads, in_channels)
