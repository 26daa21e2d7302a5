"""The record of a run or sweep: a new one, or an existing one to continue."""

import json
from collections.abc import Iterable

from kineray.config import (
    Experiment,
    apply_overrides,
    differing_keys,
    fingerprint,
    from_yaml,
    plugins_of,
    to_yaml,
)
from kineray.data import Manifest, load_manifest
from kineray.errors import ConfigError
from kineray.storage import absolute, delete_folder, exists, join, read_bytes, write_bytes
from kineray.tracking import Run, claim_name, get_run, list_runs, mark_folder, resume_run, start_run
from kineray.training import absolute_inits, init_hashes
from kineray.training.inputs import about_manifest
from kineray.training.shape import RunShape

_EXPERIMENT = "experiment.yaml"


def open_manifest(experiment: Experiment, storage: str) -> tuple[Experiment, Manifest]:
    """The experiment with absolute paths, so that its record is valid anywhere, and its manifest.

    Initial weights may be those of a run in ``storage``. Raises ConfigError, ManifestError and StorageError.
    """
    if not experiment.data.manifest:
        raise ConfigError(
            "no manifest given",
            code="not_set",
            key="data.manifest",
            remedy="pass data.manifest=PATH (kineray data import makes one)",
        )
    uri = absolute(experiment.data.manifest)
    experiment = apply_overrides(experiment, {"data.manifest": uri})
    with about_manifest(experiment):
        manifest = load_manifest(uri)
    return apply_overrides(experiment, absolute_inits(experiment.model, storage)), manifest


def run_fingerprint(experiment: Experiment, manifest: Manifest, space: str = "") -> str:
    """The fingerprint of a run, or of a sweep of ``space``; contents of manifest and ``init`` files count."""
    return fingerprint(experiment, manifest.content_hash + space, init_hashes(experiment.model))


def open_record(
    experiment: Experiment,
    manifest: Manifest,
    run_hash: str,
    *,
    storage: str,
    name: str | None,
    resume: bool,
    command: Iterable[str],
    kind: str = "",
) -> Run:
    """Start a record, or with ``resume`` continue ``name`` or the newest one of the same fingerprint.

    ``run_hash``: of ``run_fingerprint``. ``kind``: what follows the experiment's name in a default name;
    it is empty for a training run, which must be unfinished to be resumed without its name. Writes the
    experiment into the run's folder.
    """
    if resume:
        name = name or _newest(experiment, run_hash, storage, unfinished=not kind)
        if get_run(storage, name).fingerprint != run_hash:
            raise ConfigError(
                f"run {name} {_what_differs(experiment, storage, name)}",
                code="other_experiment",
                key="resume",
                remedy="use the same experiment, or start a new run without `resume`",
            )
        run = resume_run(storage, name)
    else:
        text = to_yaml(experiment).encode()
        base = name or experiment.name + kind
        name = claim_name(storage, base, numbered=name is None, file=_EXPERIMENT, data=text)
        try:
            run = start_run(
                storage,
                name=name,
                experiment=experiment,
                fingerprint=run_hash,
                manifest=manifest,
                command=list(command),
            )
        except BaseException:
            delete_folder(join(storage, name))
            raise
    try:
        run.set_tags({f"plugin.{plugin.name}": plugin.sha256 for plugin in plugins_of(experiment)})
        write_bytes(join(storage, run.name, _EXPERIMENT), to_yaml(experiment).encode())
        mark_folder(storage, run.name, run.run_id)
    except BaseException:
        run.finish("FAILED")
        raise
    return run


def record_shape(run: Run, shape: RunShape) -> None:
    """Add what a run will do to its record: tags ``plan.*`` for people, ``shape.json`` for programs."""
    run.set_tags({f"plan.{name}": line for name, line in shape.lines().items()})
    run.add_files(lambda: {"shape.json": json.dumps(shape.to_json(), indent=2)})


def _newest(experiment: Experiment, run_hash: str, storage: str, *, unfinished: bool) -> str:
    runs = [
        run
        for run in list_runs(storage)
        if run.parent is None and not (unfinished and run.status == "FINISHED")
    ]
    for run in runs:  # newest first
        if run.fingerprint == run_hash:
            return run.name
    near = [run.name for run in runs if run.name.startswith(experiment.name)]
    hint = f"; {near[0]} {_what_differs(experiment, storage, near[0])}" if near else ""
    raise ConfigError(
        f"{'no unfinished run' if unfinished else 'no sweep'} of this experiment in {storage}{hint}",
        code="nothing_to_resume",
        key="resume",
        remedy="pass the run's `name`, or start a new one without `resume`",
    )


def _what_differs(experiment: Experiment, storage: str, name: str) -> str:
    path = join(storage, name, _EXPERIMENT)
    if not exists(path):
        return "was started by another experiment"
    recorded = from_yaml(read_bytes(path).decode(), path)
    keys = [key for key in differing_keys(recorded, experiment) if key not in {"name", "data.manifest"}]
    if not keys:
        return "was started with other contents of the manifest or of a plug-in, or another search space"
    return f"was started with other values of {', '.join(keys[:6])}"
