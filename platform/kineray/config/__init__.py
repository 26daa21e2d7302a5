"""Typed experiment configs, dotted overrides, fingerprints."""

from kineray.config.fields import Section
from kineray.config.models import (
    C3DConfig,
    ModelConfig,
    P3DConfig,
    R2Plus1DConfig,
    ResNet3dConfig,
    SlowFastConfig,
    VideoResNet18Config,
)
from kineray.config.overrides import (
    apply_overrides,
    differing_keys,
    fingerprint,
    from_yaml,
    leaf_keys,
    overrides_of,
    to_yaml,
)
from kineray.config.schema import (
    AdamConfig,
    DataConfig,
    Experiment,
    OptimConfig,
    RpropConfig,
    SgdConfig,
    TrainConfig,
)
from kineray.config.space import (
    Choice,
    Domain,
    LogUniform,
    SearchSpace,
    Uniform,
    check_space,
    parse_domain,
    trial_name,
)

__all__ = [
    "AdamConfig",
    "C3DConfig",
    "Choice",
    "DataConfig",
    "Domain",
    "Experiment",
    "LogUniform",
    "ModelConfig",
    "OptimConfig",
    "P3DConfig",
    "R2Plus1DConfig",
    "ResNet3dConfig",
    "RpropConfig",
    "SearchSpace",
    "Section",
    "SgdConfig",
    "SlowFastConfig",
    "TrainConfig",
    "Uniform",
    "VideoResNet18Config",
    "apply_overrides",
    "check_space",
    "differing_keys",
    "fingerprint",
    "from_yaml",
    "leaf_keys",
    "overrides_of",
    "parse_domain",
    "to_yaml",
    "trial_name",
]
