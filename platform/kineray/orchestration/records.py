"""The record of a run or sweep: a new one, or the one that is to go on."""

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
from kineray.storage import absolute, exists, join, read_bytes, write_bytes
from kineray.tracking import Run, get_run, list_runs, resume_run, run_exists, start_run, unused_name
from kineray.training import absolute_inits, init_hashes

_EXPERIMENT = "experiment.yaml"


def open_manifest(experiment: Experiment) -> tuple[Experiment, Manifest]:
    """The experiment with absolute paths, so that its record holds anywhere, and the manifest."""
    if not experiment.data.manifest:
        raise ConfigError(
            "no manifest given",
            code="missing_manifest",
            key="data.manifest",
            remedy="pass data.manifest=PATH (kineray data import makes one)",
        )
    uri = absolute(experiment.data.manifest)
    paths = {"data.manifest": uri, **absolute_inits(experiment.model)}
    return apply_overrides(experiment, paths), load_manifest(uri)


def science(experiment: Experiment, manifest: Manifest, space: str = "") -> str:
    """The fingerprint of a run, or of a sweep of ``space``, with the content of what it starts from."""
    return fingerprint(experiment, manifest.content_hash + space, init_hashes(experiment.model))


def open_record(
    experiment: Experiment,
    manifest: Manifest,
    science_hash: str,
    *,
    storage: str,
    name: str | None,
    resume: bool,
    command: Iterable[str],
    kind: str = "",
) -> Run:
    """Start a record, or with ``resume`` go on with ``name`` or the newest that ``science_hash`` fits.

    ``kind``: what is put behind the experiment's name where none is given; it is empty for a training
    run, of which only an unfinished one is resumed unasked. Writes the experiment into the run's folder.
    """
    if resume:
        name = name or _newest(experiment, science_hash, storage, unfinished=not kind)
        if get_run(storage, name).fingerprint != science_hash:
            raise ConfigError(
                f"run {name} {_what_differs(experiment, storage, name)}",
                code="other_experiment",
                key="resume",
                remedy="give it the same experiment, or start a run without `resume`",
            )
        run = resume_run(storage, name)
    else:
        if name is not None and run_exists(storage, name):
            raise ConfigError(
                f"{storage} already has a run of this name",
                code="name_taken",
                key="name",
                value=name,
                remedy="choose another `name`, or continue that run with `resume`",
            )
        run = start_run(
            storage,
            name=name or unused_name(storage, experiment.name + kind),
            experiment=experiment,
            fingerprint=science_hash,
            manifest=manifest,
            command=list(command),
        )
    try:
        run.set_tags({f"plugin.{plugin.name}": plugin.sha256 for plugin in plugins_of(experiment)})
        write_bytes(join(storage, run.name, _EXPERIMENT), to_yaml(experiment).encode())
    except BaseException:
        run.finish("FAILED")
        raise
    return run


def _newest(experiment: Experiment, science_hash: str, storage: str, *, unfinished: bool) -> str:
    runs = [
        run
        for run in list_runs(storage)
        if run.parent is None and not (unfinished and run.status == "FINISHED")
    ]
    for run in runs:  # newest first
        if run.fingerprint == science_hash:
            return run.name
    near = [run.name for run in runs if run.name.startswith(experiment.name)]
    hint = f"; {near[0]} {_what_differs(experiment, storage, near[0])}" if near else ""
    raise ConfigError(
        f"{'no unfinished run' if unfinished else 'no sweep'} of this experiment in {storage}{hint}",
        code="nothing_to_resume",
        key="resume",
        remedy="give the run's `name`, or start one without `resume`",
    )


def _what_differs(experiment: Experiment, storage: str, name: str) -> str:
    path = join(storage, name, _EXPERIMENT)
    if not exists(path):
        return "was made by another experiment"
    recorded = from_yaml(read_bytes(path).decode(), path)
    keys = [key for key in differing_keys(recorded, experiment) if key not in {"name", "data.manifest"}]
    if not keys:
        return "was made with another content of the manifest, or another search space"
    return f"was made with other values of {', '.join(keys[:6])}"
