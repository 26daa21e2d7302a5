"""Typed experiment configs, dotted overrides, fingerprints."""

from kineray.config.overrides import (
    apply_overrides,
    differing_keys,
    fingerprint,
    from_yaml,
    leaf_keys,
    to_yaml,
)
from kineray.config.schema import (
    AdamConfig,
    DataConfig,
    Experiment,
    ModelConfig,
    OptimConfig,
    Section,
    SgdConfig,
    SlowFastConfig,
    TrainConfig,
)

__all__ = [
    "AdamConfig",
    "DataConfig",
    "Experiment",
    "ModelConfig",
    "OptimConfig",
    "Section",
    "SgdConfig",
    "SlowFastConfig",
    "TrainConfig",
    "apply_overrides",
    "differing_keys",
    "fingerprint",
    "from_yaml",
    "leaf_keys",
    "to_yaml",
]
