"""Typed experiment configs, variants, dotted overrides, fingerprints.

Every variant's class is an attribute too, by its name (``kineray.config.C3DConfig``), also a plug-in's.
"""

from typing import Any

from kineray.config.augment.base import ClipAugmentation
from kineray.config.data import DataConfig
from kineray.config.domains import Choice, Domain, Integers, LogUniform, SearchSpace, Uniform
from kineray.config.fields import Section
from kineray.config.files import from_yaml, to_yaml
from kineray.config.fingerprint import fingerprint
from kineray.config.losses.base import LossSection
from kineray.config.main_script import watch_main_script
from kineray.config.metrics.base import MetricSection
from kineray.config.models.base import ModelSection
from kineray.config.optim.base import BatchScaledOptimSection, OptimSection
from kineray.config.overrides import (
    apply_overrides,
    arguments_of,
    as_argument,
    as_arguments,
    as_pairs,
    change_model,
    differing_keys,
    leaf_keys,
    overrides_of,
    reset_by,
)
from kineray.config.plugins import Plugin, check_main_guard, load_plugins, loaded_plugins, plugins_of
from kineray.config.recipe.base import RecipePiece
from kineray.config.schedules.base import ScheduleSection
from kineray.config.schema import Experiment, TrainConfig
from kineray.config.space import all_keys, all_points, check_space, trial_name, with_default_spaces
from kineray.config.space_text import parse_domain, parse_space, read_space, space_from_plain, space_to_plain
from kineray.config.tasks.base import TaskSection
from kineray.config.temporal.base import TemporalSection
from kineray.config.variants import Pieces, Variant, families, variants

__all__ = [
    "BatchScaledOptimSection",
    "Choice",
    "ClipAugmentation",
    "DataConfig",
    "Domain",
    "Experiment",
    "Integers",
    "LogUniform",
    "LossSection",
    "MetricSection",
    "ModelSection",
    "OptimSection",
    "Pieces",
    "Plugin",
    "RecipePiece",
    "ScheduleSection",
    "SearchSpace",
    "Section",
    "TaskSection",
    "TemporalSection",
    "TrainConfig",
    "Uniform",
    "Variant",
    "all_keys",
    "all_points",
    "apply_overrides",
    "arguments_of",
    "as_argument",
    "as_arguments",
    "as_pairs",
    "change_model",
    "check_main_guard",
    "check_space",
    "differing_keys",
    "families",
    "fingerprint",
    "from_yaml",
    "leaf_keys",
    "load_plugins",
    "loaded_plugins",
    "overrides_of",
    "parse_domain",
    "parse_space",
    "plugins_of",
    "read_space",
    "reset_by",
    "space_from_plain",
    "space_to_plain",
    "to_yaml",
    "trial_name",
    "variants",
    "with_default_spaces",
]

watch_main_script()


def __getattr__(name: str) -> Any:
    for family in () if name.startswith("_") else families():
        for variant in variants(family).values():
            if variant.__name__ == name:
                return variant
    raise AttributeError(f"module 'kineray.config' has no attribute '{name}'")
