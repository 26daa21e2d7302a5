"""What makes two runs the same science."""

import hashlib
import json
from collections.abc import Mapping

from kineray.config.overrides import leaf_keys
from kineray.config.plugins import plugins_of
from kineray.config.schema import Experiment


def fingerprint(
    experiment: Experiment, manifest_hash: str = "", inits: Mapping[str, str] | None = None
) -> str:
    """12 hex digits that change exactly when the science does.

    The path of the manifest and the experiment's name are no science; the content of the manifest
    is, so pass its hash when there is one. So it is with weights to start from: ``inits`` maps their dotted
    keys (``model.init``) to the hash of their content. The source of plug-ins that the experiment uses is
    science.
    """
    science = leaf_keys(experiment)
    del science["name"], science["data.manifest"]
    science |= inits or {}
    plugins = {plugin.name: plugin.sha256 for plugin in plugins_of(experiment)}
    canonical = json.dumps([science, manifest_hash, plugins], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
