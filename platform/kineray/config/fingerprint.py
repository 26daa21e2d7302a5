"""What makes two runs the same science."""

import hashlib
import json
from collections.abc import Mapping

from kineray.config.overrides import science_of
from kineray.config.plugins import plugins_of
from kineray.config.schema import Experiment


def fingerprint(
    experiment: Experiment, manifest_hash: str = "", inits: Mapping[str, str] | None = None
) -> str:
    """12 hex digits that change exactly when the science does.

    The experiment's name and the path of the manifest do not count; the content of the manifest does, so
    pass its hash if there is one. Likewise ``inits`` maps the dotted keys of the initial weights
    (``model.init``) to the hashes of their content. The source of every plug-in that the experiment uses
    counts too.
    """
    science = science_of(experiment) | dict(inits or {})
    plugins = {plugin.name: plugin.sha256 for plugin in plugins_of(experiment)}
    canonical = json.dumps([science, manifest_hash, plugins], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
