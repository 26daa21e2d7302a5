"""The record of a run or sweep: a new one, or an existing one to continue."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from kineray.config import (
    Experiment,
    apply_overrides,
    fingerprint,
    plugins_of,
    to_yaml,
)
from kineray.data import Manifest, load_manifest
from kineray.errors import ConfigError
from kineray.orchestration.continuing import (
    CHANGED,
    FORKED,
    Continuation,
    can_extend,
    changes_between,
    recorded_experiment,
)
from kineray.storage import absolute, delete_folder, join, write_bytes
from kineray.tracking import (
    Run,
    RunDetail,
    claim_name,
    get_run,
    list_runs,
    mark_folder,
    resume_run,
    start_run,
)
from kineray.tracking.trials import EXPERIMENT
from kineray.training import absolute_inits, init_hashes
from kineray.training.inputs import about_manifest
from kineray.training.kept import copy_checkpoint, last_kept
from kineray.training.shape import RunShape


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


@dataclass(frozen=True)
class OpenRecord:
    """The record of a run. ``changed``: dotted keys in which its last checkpoint may differ from it."""

    run: Run
    changed: tuple[str, ...] = ()


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
    start: Continuation | None = None,
    is_claimed: bool = False,
) -> OpenRecord:
    """Start a record, or with ``resume`` continue ``name`` or the newest one of the same fingerprint.

    ``run_hash``: of ``run_fingerprint``. ``kind``: what follows the experiment's name in a default name;
    it is empty for a training run, which must be unfinished to be resumed without its name. ``start``: the
    run of which the record is continued with other values, or the checkpoint with which a new one begins.
    ``is_claimed``: ``name`` was claimed for this run. Writes the experiment into the run's folder.
    """
    found = run_to_continue(
        experiment, manifest, run_hash, storage=storage, name=name, resume=resume, kind=kind, start=start
    )
    if found is not None:
        run = resume_run(storage, found.name)
    else:
        run = _new(experiment, manifest, run_hash, storage, name, kind, command, is_claimed)
    try:
        run.set_tags({f"plugin.{plugin.name}": plugin.sha256 for plugin in plugins_of(experiment)})
        before = found.tags if found else {}
        tags = start.tags(before) if start else before
        if start is not None:
            run.set_tags({"fingerprint": run_hash, **tags})
        write_bytes(join(storage, run.name, EXPERIMENT), to_yaml(experiment).encode())
        mark_folder(storage, run.name, run.run_id)
        if FORKED in tags and last_kept(checkpoints := join(storage, run.name, "checkpoints")) is None:
            copy_checkpoint(tags[FORKED], checkpoints)
    except BaseException:
        run.finish("FAILED")
        raise
    return OpenRecord(run, tuple(filter(None, tags.get(CHANGED, "").split(","))))


def run_to_continue(
    experiment: Experiment,
    manifest: Manifest,
    run_hash: str,
    *,
    storage: str,
    name: str | None,
    resume: bool,
    kind: str = "",
    start: Continuation | None = None,
) -> RunDetail | None:
    """The run whose record ``open_record`` continues with the same arguments; None for a new one.

    Raises ConfigError, which names the way out, and TrackingError.
    """
    if resume:
        found = get_run(storage, name or _newest(experiment, run_hash, storage, unfinished=not kind))
        if found.fingerprint != run_hash:
            raise _other_experiment(experiment, storage, found.name, is_run=not kind)
        return found
    if start is None or start.is_fork:
        return None
    found = get_run(storage, start.of)
    if found.fingerprint != run_fingerprint(start.base, manifest):
        raise _other_experiment(start.base, storage, start.of, is_run=True)
    return found


def _new(
    experiment: Experiment,
    manifest: Manifest,
    run_hash: str,
    storage: str,
    name: str | None,
    kind: str,
    command: Iterable[str],
    is_claimed: bool,
) -> Run:
    if name is None or not is_claimed:
        name = claim(experiment, storage, name, kind)
    try:
        return start_run(
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


def claim(experiment: Experiment, storage: str, name: str | None, kind: str) -> str:
    """Claim ``name`` for a new run, or the experiment's followed by ``kind``, numbered; returns the name."""
    base, text = name or experiment.name + kind, to_yaml(experiment).encode()
    return claim_name(storage, base, numbered=name is None, file=EXPERIMENT, data=text)


def record_shape(run: Run, shape: RunShape) -> None:
    """Add what a run will do to its record: tags ``plan.*`` for people, ``shape.json`` for programs."""
    run.set_tags({f"plan.{name}": line for name, line in shape.lines().items()})
    run.add_files(lambda: {"shape.json": json.dumps(shape.to_json(), indent=2)})


def _newest(experiment: Experiment, run_hash: str, storage: str, *, unfinished: bool) -> str:
    whole = [run for run in list_runs(storage) if run.parent is None]
    runs = [run for run in whole if not (unfinished and run.status == "FINISHED")]
    for run in runs:  # newest first
        if run.fingerprint == run_hash:
            return run.name
    near = [run.name for run in runs if run.name.startswith(experiment.name)]
    hint = f"; {near[0]} {_what_differs(experiment, storage, near[0])}" if near else ""
    way_out = "pass the run's `name`, or start a new one without `resume`"
    shorter = (run.name for run in whole if _can_extend(storage, run.name, experiment))
    if unfinished and (name := next(shorter, None)):
        way_out = f"`extend` it in place of `resume` (`name` {name}), or start a new one without it"
    raise ConfigError(
        f"{'no unfinished run' if unfinished else 'no sweep'} of this experiment in {storage}{hint}",
        code="nothing_to_resume",
        key="resume",
        remedy=way_out,
    )


def _can_extend(storage: str, name: str, experiment: Experiment) -> bool:
    with suppress(ConfigError):  # it needs a plug-in that this process does not have
        base = recorded_experiment(storage, name)
        return base is not None and can_extend(base, experiment)
    return False


def _other_experiment(experiment: Experiment, storage: str, name: str, *, is_run: bool) -> ConfigError:
    """The error of a run or sweep that ``experiment`` cannot resume. Names the way out."""
    remedy = "use the same experiment, or start a new one without `resume`"
    if is_run:
        remedy = f"use the same experiment, or start a new run from its checkpoint: `fork` {name}"
        if _can_extend(storage, name, experiment):
            remedy = f"`extend` it in place of `resume` (`name` {name})"
    return ConfigError(
        f"run {name} {_what_differs(experiment, storage, name)}",
        code="other_experiment",
        key="resume",
        remedy=remedy,
    )


def _what_differs(experiment: Experiment, storage: str, name: str) -> str:
    recorded = recorded_experiment(storage, name)
    if recorded is None:
        return "was started by another experiment"
    changes = changes_between(recorded, experiment)
    if not changes:
        return "was started with other contents of the manifest or of a plug-in, or another search space"
    return f"was started with other values of {', '.join(list(changes)[:6])}"
