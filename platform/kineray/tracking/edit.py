"""Changes to runs that have ended: deleting them, and tagging them."""

import re
from collections.abc import Mapping

from kineray.errors import TrackingError
from kineray.storage import delete_folder, join, runs_folder
from kineray.tracking.client import open_client, tracking_errors, tracking_uri
from kineray.tracking.runs import RunDetail, get_run, list_runs

# Of tags that kineray and MLflow write.
_PREFIXES = (
    "checkpoint.",
    "eval.",
    "forked.",
    "git.",
    "initialised",
    "manifest.",
    "mlflow.",
    "param.",
    "plan.",
    "plugin.",
    "straggler.",
    "sweep.",
    "trial.",
)
_NAMES = re.compile(r"changed|command|fingerprint|hang|lineage|problem|storage|version\..*|worker\.\d+")


def delete_run(run: str, *, storage: str | None = None, force: bool = False) -> RunDetail:
    """Delete a run, by its name or MLflow run id, and its checkpoints; its name is then free again.

    A sweep is deleted with its trials. ``force``: even a run whose record has no end, because its process was
    killed. Returns what the run was. Raises TrackingError for a run that does not exist, is running, or has
    versions in the model registry, and StorageError.
    """
    folder = runs_folder(storage)
    found = get_run(folder, run)
    family = [found, *(child for child in list_runs(folder) if child.parent == found.name)]
    for one in family:
        if one.status == "RUNNING" and not force:
            raise TrackingError(
                "the run is not over, or was killed before it could record its end",
                code="run_is_running",
                key=one.name,
                remedy="stop it, or delete it with `force` if nothing runs any more",
            )
    versions = _versions({one.run_id for one in family}, folder)
    if versions:
        raise TrackingError(
            f"the model registry serves checkpoints of this run: {', '.join(versions)}",
            code="run_is_registered",
            key=found.name,
            remedy="keep it, or delete those versions in MLflow first",
        )
    client = open_client(folder)
    delete_folder(join(folder, found.name))
    with tracking_errors(tracking_uri(folder)):
        for one in reversed(family):
            client.delete_run(one.run_id)
    return found


def tag_run(run: str, tags: Mapping[str, str | None], *, storage: str | None = None) -> dict[str, str]:
    """Set ``tags`` of a run, by its name or MLflow run id; a tag that is None is removed.

    Returns all tags of the run but those that kineray writes. Raises TrackingError for a run that does not
    exist, and for names of tags that kineray uses.
    """
    folder = runs_folder(storage)
    found = get_run(folder, run)
    for name in tags:
        if not is_own_tag(name):
            raise TrackingError(
                "kineray writes this tag", code="reserved_tag", key=name, remedy="choose another name"
            )
    client = open_client(folder)
    with tracking_errors(tracking_uri(folder)):
        for name, value in tags.items():
            if value is not None:
                client.set_tag(found.run_id, name, value)
            elif name in found.tags:
                client.delete_tag(found.run_id, name)
    return {name: value for name, value in get_run(folder, run).tags.items() if is_own_tag(name)}


def is_own_tag(name: str) -> bool:
    """Whether a tag is a user's own, and none that kineray or MLflow writes."""
    return bool(name) and not name.startswith(_PREFIXES) and not _NAMES.fullmatch(name)


def _versions(run_ids: set[str], folder: str) -> list[str]:
    """The registered versions that were made from any of these runs."""
    client = open_client(folder)
    with tracking_errors(tracking_uri(folder)):
        return [
            f"{version.name} version {version.version}"
            for run_id in run_ids
            for version in client.search_model_versions(f"run_id = '{run_id}'")
        ]
