"""Models by name, and by their configuration."""

import difflib
import logging
from collections.abc import Callable, Mapping
from os import PathLike, fspath
from typing import Any

from torch import nn

from kineray.config import (
    C3DConfig,
    FrameConfig,
    ModelConfig,
    P3DConfig,
    R2Plus1DConfig,
    ResNet3dConfig,
    S3DConfig,
    S3DV3Config,
    SlowFastConfig,
    STResNetConfig,
    TwoStreamConfig,
    VideoResNet18Config,
    change_model,
)
from kineray.errors import ConfigError
from kineray.models import (
    c3d,
    frame,
    p3d,
    r2plus1d,
    resnet3d,
    s3d,
    s3d_v3,
    slowfast,
    st_resnet,
    two_stream,
    video_resnet18,
)
from kineray.models.preset import ModelPreset
from kineray.models.weights import load_weights

log = logging.getLogger(__name__)

# How each configuration is built: (config, heads, in_channels) -> network.
_BUILDERS: Mapping[type, Callable[..., nn.Module]] = {
    C3DConfig: c3d.C3D,
    P3DConfig: p3d.P3D,
    R2Plus1DConfig: r2plus1d.R2Plus1D,
    SlowFastConfig: slowfast.SlowFast,
    S3DConfig: s3d.S3D,
    S3DV3Config: s3d_v3.S3DV3,
    ResNet3dConfig: resnet3d.ResNet3d,
    VideoResNet18Config: video_resnet18.VideoResNet18,
    FrameConfig: frame.FrameNet,
    STResNetConfig: st_resnet.STResNet,
    TwoStreamConfig: two_stream.TwoStream,
}

MODEL_PRESETS: Mapping[str, ModelPreset] = {
    **c3d.PRESETS,
    **p3d.PRESETS,
    **r2plus1d.PRESETS,
    **slowfast.PRESETS,
    **s3d.PRESETS,
    **s3d_v3.PRESETS,
    **resnet3d.PRESETS,
    **video_resnet18.PRESETS,
    **frame.PRESETS,
    **st_resnet.PRESETS,
    **two_stream.PRESETS,
}


def list_models() -> list[str]:
    """Names that ``create_model`` knows."""
    return sorted(MODEL_PRESETS)


def create_model(
    name: str,
    heads: Mapping[str, int],
    *,
    in_channels: int | None = None,
    init: str | PathLike[str] | None = None,
    **overrides: Any,
) -> nn.Module:
    """A new model: ``create_model("slowfast_r50_8x8", heads={"action": 400})``.

    It is initialised randomly, or from the weights ``init`` (``load_weights``); what of these is not used,
    or is new, is logged as a warning. ``overrides`` are fields of its configuration (``dropout=0.2``,
    ``temporal=GruConfig()``). The model takes normalised clips, float [B, ``in_channels``, T, H, W], by
    default those of the preset, and returns {head: logits [B, classes]}. Raises ConfigError for an unknown
    name or field, and CheckpointError for weights that cannot be read or are not of this model.
    """
    preset = find_preset(name)
    config = change_model(preset.config, {"init": fspath(init or ""), **overrides})
    model = build_model(config, heads, preset.channels if in_channels is None else in_channels)
    for part, weights in config.inits().items():
        loaded = load_weights(model.get_submodule(part), weights)
        log.log(logging.WARNING if loaded.notes else logging.INFO, "%s", loaded)
    if isinstance(config, FrameConfig) and config.is_frozen_at_random:
        log.warning("the backbone has %s", frame.FROZEN_AT_RANDOM)
    return model


def find_preset(name: str) -> ModelPreset:
    """The published model of that name. Raises ConfigError, with a suggestion, if there is none."""
    if name not in MODEL_PRESETS:
        near = difflib.get_close_matches(name, MODEL_PRESETS, n=1)
        hint = f"did you mean {near[0]}?" if near else "kineray models lists them"
        raise ConfigError(f"model '{name}' is not known; {hint}")
    return MODEL_PRESETS[name]


def build_model(config: ModelConfig, heads: Mapping[str, int], in_channels: int = 3) -> nn.Module:
    """A new, randomly initialised model of a configuration, whatever its ``init``, for ``in_channels``.

    Raises ConfigError for unusable heads or channels.
    """
    if not isinstance(in_channels, int) or in_channels < 1:
        raise ConfigError(f"in_channels: {in_channels!r} is no number of channels; RGB has 3, flow 2")
    return _BUILDERS[type(config)](config, heads, in_channels)
