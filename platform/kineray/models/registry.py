"""Models by name, and by their configuration."""

import logging
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from kineray.config.data import DataConfig
from kineray.config.models.base import ModelSection
from kineray.config.overrides import change_model
from kineray.config.problems import did_you_mean
from kineray.config.variants import variants
from kineray.errors import ConfigError
from kineray.models import frame
from kineray.models.blocks import adopt
from kineray.models.preset import ModelPreset
from kineray.models.weights import load_weights

log = logging.getLogger(__name__)


@cache
def _kineray_presets() -> dict[str, ModelPreset]:
    """The presets of kineray's own architectures: ``PRESETS`` at the foot of each file."""
    found: dict[str, ModelPreset] = {}
    for variant in variants(ModelSection).values():
        if variant.builds.startswith("kineray."):
            module = import_module(variant.builds.rpartition(".")[0])
            found |= module.PRESETS
    return found


def model_presets() -> dict[str, ModelPreset]:
    """The published models by name, and the architectures of plug-ins by their ``type``.

    A plug-in's module may define presets instead, as ``PRESETS``: {name: ModelPreset}, and has to if its
    configuration has fields without defaults.
    """
    found = dict(_kineray_presets())
    for name, variant in variants(ModelSection).items():
        if variant.__module__.startswith("kineray."):
            continue
        module = sys.modules[variant.__module__]
        own = _own_presets(module)
        if own is None and not any(field.is_required() for field in variant.model_fields.values()):
            own = {name: _plain_preset(variant)}
        found |= own or {}
    return found


def _own_presets(module: ModuleType) -> dict[str, ModelPreset] | None:
    """``PRESETS`` of a plug-in's module, None if it has none. Raises ConfigError for what is no preset."""
    own: dict[str, ModelPreset] | None = getattr(module, "PRESETS", None)
    for name, value in (own or {}).items():
        if not isinstance(value, ModelPreset):
            raise ConfigError(
                f"is a {type(value).__name__}, not a ModelPreset",
                code="not_a_preset",
                key=f"{module.__file__}: PRESETS[{name!r}]",
                remedy="make it a kineray.models.ModelPreset, with the clips that it takes",
            )
    return own


def _plain_preset(variant: type[ModelSection]) -> ModelPreset:
    """A user's architecture with its defaults, for the default clips of an experiment."""
    usual = DataConfig()
    source = getattr(sys.modules[variant.__module__], "__file__", None) or variant.__module__
    return ModelPreset(
        variant(), frames=usual.frames, side=usual.eval_crop, source=Path(source).name, stride=usual.stride
    )


def list_models() -> list[str]:
    """Names that ``create_model`` knows."""
    return sorted(model_presets())


def create_model(
    name: str,
    heads: Mapping[str, int],
    *,
    in_channels: int | None = None,
    init: str | PathLike[str] | None = None,
    **overrides: Any,
) -> nn.Module:
    """A new model: ``create_model("slowfast_r50_8x8", heads={"action": 400})``.

    ``heads``: number of classes of each head. ``in_channels``: number of clip channels [default: the
    preset's]. ``init``: weights to start from (``load_weights``), otherwise random ones; parts that stay
    random and other differences are logged as warnings. ``overrides``: fields of its configuration
    (``dropout=0.2``, ``temporal=GruConfig()``). The model takes normalised clips, float
    [B, ``in_channels``, T, H, W], and returns {head: logits [B, classes]}. Raises ConfigError for an unknown
    name or field, and CheckpointError for weights that cannot be read or belong to another model.
    """
    preset = find_preset(name)
    config = change_model(preset.config, {"init": fspath(init or ""), **overrides})
    model = build_model(config, heads, preset.channels if in_channels is None else in_channels)
    for part, weights in config.inits().items():
        loaded = load_weights(model.get_submodule(part), weights)
        log.log(logging.WARNING if loaded.notes else logging.INFO, "%s", loaded)
    for part, key in config.frozen_at_random().items():
        log.warning("%s has %s", part, frame.frozen_at_random_note(key))
    return model


def find_preset(name: str) -> ModelPreset:
    """The published model with that name. Raises ConfigError, with a suggestion, if there is none."""
    known = model_presets()
    if name not in known:
        remedy = did_you_mean(name, known) or "kineray models lists them"
        raise ConfigError("no model of this name", code="unknown_model", key=name, remedy=remedy)
    return known[name]


def build_model(config: ModelSection, heads: Mapping[str, int], in_channels: int = 3) -> nn.Module:
    """A new, randomly initialised model of a configuration; its ``init`` is not loaded.

    ``heads``: number of classes of each head; ``in_channels``: number of clip channels (3 for RGB). Batch
    norms and dropout layers of torch in the network, such as a plug-in's, become exact (``adopt``). Raises
    ConfigError for unusable heads or channels.
    """
    if not isinstance(in_channels, int) or in_channels < 1:
        raise ConfigError(
            "not a number of channels",
            code="out_of_range",
            key="in_channels",
            value=repr(in_channels),
            remedy="RGB has 3, flow 2",
        )
    return adopt(config.build(heads, in_channels))
