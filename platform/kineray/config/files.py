"""Experiments as YAML."""

import yaml

from kineray.config.overrides import validated
from kineray.config.schema import Experiment
from kineray.config.tree import check_key, fill, flatten
from kineray.errors import ConfigError


def to_yaml(experiment: Experiment) -> str:
    """The whole experiment as YAML, defaults included; ``from_yaml`` reads it back unchanged."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, default_flow_style=None)


def from_yaml(text: str, source: str = "experiment") -> Experiment:
    """Read an experiment; keys left out take their defaults. Raises ConfigError naming ``source``."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = f"not valid YAML: {' '.join(str(error).split())}"
        raise ConfigError(problem, code="not_yaml", key=source) from None
    except RecursionError:
        raise ConfigError("nested too deeply", code="not_yaml", key=source) from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"holds a {type(tree).__name__}, not an experiment",
            code="not_an_experiment",
            key=source,
            remedy="write sections such as 'optim:'",
        )
    default = Experiment().model_dump()
    try:
        fill(Experiment, default, tree)
        flat = dict(flatten(tree))
    except RecursionError:
        raise ConfigError(
            "nested too deeply", code="not_yaml", key=source, remedy="an alias must not contain itself"
        ) from None
    try:
        for key, value in flat.items():
            if value != {}:
                check_key(str(key), default)
        return validated(tree, flat)
    except ConfigError as error:
        raise ConfigError(str(error), code=error.code, key=source) from None
