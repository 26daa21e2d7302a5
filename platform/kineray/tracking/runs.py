"""The records of runs in MLflow: starting, writing, resuming and listing them."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Thread
from typing import TYPE_CHECKING, Any

from kineray import storage
from kineray.config import Experiment, as_argument, leaf_keys, to_yaml
from kineray.data import Manifest
from kineray.errors import StorageError, TrackingError
from kineray.tracking.client import (
    default_uri,
    experiment_id,
    open_client,
    tracking_errors,
    tracking_uri,
    without_password,
)
from kineray.tracking.journal import Journal, Sender, add_files, pending_folder, send_pending
from kineray.tracking.locations import location, root_of
from kineray.tracking.names import check_name, is_name, name_taken
from kineray.tracking.source import code, environment, git_state, versions

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from tensorboardX import SummaryWriter

log = logging.getLogger(__name__)

SCORE = "val/score"  # the metric that every validation logs
PROBLEM = "problem"  # the tag with the reason why a run failed
SCORE_NAME = "checkpoint.score_name"  # the tag with the name of that metric, such as action/top1
GOODPUT = "goodput"  # the metric with the share of a run's time that was spent on steps that count
BEST_SCORE = "checkpoint.best_score"  # the tag with the score of the checkpoint in ``checkpoint.best``

_PARAM = "param."  # tags with values of parameters, which MLflow does not change, of a run that was extended
_PARAMS_PER_REQUEST = 100
_LONGEST_WAIT_S = 60.0  # for artifacts, at the end of a run


@dataclass(frozen=True)
class RunSummary:
    """One run in a list.

    ``status`` is RUNNING, FINISHED, FAILED or KILLED. ``parent``: the name of the sweep that a trial
    belongs to. ``started``: date and time in UTC. ``score``: the metric that decides which checkpoint is
    the best, such as ``action/top1``; ``best`` and ``last``: its highest value in validation (0 to 1), whose
    checkpoint would be promoted, and its latest one. ``goodput``: the share (0 to 1) of its time that was
    spent on steps that count. ``metrics``: the latest value of every metric.
    ``best_checkpoint`` and ``last_checkpoint``: locations of checkpoint folders.
    """

    name: str
    run_id: str
    status: str
    fingerprint: str
    parent: str | None
    started: str
    duration_s: float | None
    score: str | None
    best: float | None
    last: float | None
    goodput: float | None
    metrics: dict[str, float]
    best_checkpoint: str | None
    last_checkpoint: str | None
    tags: dict[str, str]


@dataclass(frozen=True)
class RunDetail(RunSummary):
    """One run, with its resolved experiment by dotted key (``params``)."""

    params: dict[str, str] = field(default_factory=dict)


class Run:
    """The one writer of a run's record. Methods return at once; a thread sends what they have written.

    May be used from any thread, until ``finish``.
    """

    def __init__(
        self,
        client: "MlflowClient",
        journal: Journal,
        storage_uri: str,
        name: str,
        run_id: str,
        steps: dict[str, int],
    ) -> None:
        self.storage = storage_uri
        self.name = name
        self.run_id = run_id
        self._journal = journal
        self._steps = steps
        self._is_incomplete = False
        self._files: list[Thread] = []
        self._events: SummaryWriter | None = None
        self._sender = Sender(client, journal, name)
        self._sender.start()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record ``metrics`` at ``step``.

        A metric that is already recorded at this step or a later one is left out: a run that continues from
        a checkpoint repeats the steps after it.
        """
        new = {key: float(value) for key, value in metrics.items() if step > self._steps.get(key, -1)}
        if new:
            self._steps.update(dict.fromkeys(new, step))
            if self._events is not None:
                for key, value in new.items():
                    self._events.add_scalar(key, value, step)
            self._write({"metrics": new, "step": step})

    def last_step(self, metric: str) -> int | None:
        """The last step at which ``metric`` is recorded."""
        return self._steps.get(metric)

    def write_tensorboard(self) -> None:
        """Write the metrics as TensorBoard event files, too, to ``tensorboard`` in the run's folder."""
        from tensorboardX import SummaryWriter

        folder = storage.join(storage.absolute(self.storage), self.name, "tensorboard")
        self._events = SummaryWriter(folder, flush_secs=10)

    def append_metrics(self, metrics: Mapping[str, float]) -> None:
        """Record ``metrics``, each at the step after its last one."""
        for key, value in metrics.items():
            self.log_metrics({key: value}, self._steps.get(key, -1) + 1)

    def add_datasets(self, datasets: Sequence[Mapping[str, str]]) -> None:
        """Record data sets that the run uses: the fields of MLflow's ``Dataset``, and its ``context``."""
        self._write({"datasets": list(map(dict, datasets))})

    def add_files(self, collect: Callable[[], Mapping[str, str]]) -> None:
        """Record what ``collect`` returns, in a thread: texts by their paths among the artifacts."""

        def add() -> None:
            try:
                add_files(self.storage, self.run_id, collect())
            except Exception as error:  # of the disk, or of a package that is installed in an odd way
                log.warning("the artifacts of run %s are incomplete: %s", self.name, error)

        thread = Thread(target=add, name=f"kineray-files-{self.name}", daemon=True)
        self._files.append(thread)
        thread.start()

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set ``tags``, replacing those of the same name."""
        self._write({"tags": dict(tags)})

    def finish(self, status: str = "FINISHED") -> None:
        """End the run as FINISHED, FAILED or KILLED and send what MLflow does not have yet.

        If MLflow cannot be reached, that is logged, and a later ``send_pending`` sends the rest.
        """
        self._write({"status": status})
        for thread in self._files:
            thread.join(_LONGEST_WAIT_S)
        if self._events is not None:
            self._events.close()
        self._sender.stop()
        self._journal.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        """Write one line of the record; a full disk must not stop what is recorded."""
        try:
            self._journal.append(line)
        except StorageError as error:
            if not self._is_incomplete:
                log.error("the record of run %s is incomplete: %s", self.name, error)
            self._is_incomplete = True


def start_run(
    storage_uri: str,
    *,
    name: str,
    experiment: Experiment,
    fingerprint: str,
    manifest: Manifest,
    command: list[str],
    parent: str | None = None,
) -> Run:
    """Start the record of a new run in the tracker of the storage folder ``storage_uri``.

    Records the experiment by dotted key, the git commit, package versions, the splits of the manifest as data
    sets, its hash and how many of its clips were found. Artifacts: ``experiment.yaml``, ``environment.txt``
    (all packages), ``code/`` (script and plug-ins) and ``diff.patch`` (differences from the commit).
    ``command``: the words of the command line that started the run. ``parent``: the run id of a sweep.
    Raises ConfigError for a name that is taken or contains other characters than letters, digits and
    ``_ . , = + - /``, TrackingError if MLflow cannot be reached.
    """
    from mlflow.entities import Param

    check_name(name)
    client = open_and_send(storage_uri)
    tags = {
        "fingerprint": fingerprint,
        "storage": storage.absolute(storage_uri),
        "command": " ".join(command),
        **_manifest_tags(manifest),
        **{f"version.{package}": version for package, version in versions().items()},
    }
    if parent is not None:
        tags["mlflow.parentRunId"] = parent
    git = git_state()
    if git is not None:
        tags |= {"mlflow.source.git.commit": git.commit, "git.dirty": str(git.dirty).lower()}
    params = [Param(key, as_argument(value)) for key, value in leaf_keys(experiment).items()]
    with tracking_errors(tracking_uri(storage_uri)):
        if is_in_tracker(client, storage_uri, name):
            raise name_taken(storage_uri, name)
        run_id = client.create_run(experiment_id(client), run_name=name, tags=tags).info.run_id
        for start in range(0, len(params), _PARAMS_PER_REQUEST):
            client.log_batch(run_id, params=params[start : start + _PARAMS_PER_REQUEST])
    run = Run(client, Journal.create(pending_folder(storage_uri), run_id), storage_uri, name, run_id, {})
    run.add_datasets(_datasets(experiment.data.manifest, manifest))

    def files() -> dict[str, str]:
        found = {"experiment.yaml": to_yaml(experiment)}
        if parent is None:  # a trial has the rest of its sweep's
            found["environment.txt"] = environment()
            found |= {f"code/{path}": text for path, text in code(experiment, command).items()}
            if git is not None and git.dirty:
                found["diff.patch"] = git.patch
        return found

    run.add_files(files)
    return run


def resume_run(storage_uri: str, name: str) -> Run:
    """Continue the record of a run that has ended or whose process has died.

    Raises TrackingError if there is no such run, if MLflow cannot be reached, or if a running process on
    this host is writing the record.
    """
    client = open_and_send(storage_uri)
    with tracking_errors(tracking_uri(storage_uri)):
        found = _get(client, storage_uri, name)
        run_id = found.info.run_id
        steps = {
            key: max(metric.step for metric in client.get_metric_history(run_id, key))
            for key in found.data.metrics
        }
        client.update_run(run_id, status="RUNNING")
        if PROBLEM in found.data.tags:  # why it ended before
            client.delete_tag(run_id, PROBLEM)
    journal = Journal.create(pending_folder(storage_uri), run_id)
    return Run(client, journal, storage_uri, found.info.run_name, run_id, steps)


def list_runs(storage_uri: str) -> list[RunSummary]:
    """All runs in the tracker of ``storage_uri``, newest first. Raises TrackingError without an answer."""
    client = open_and_send(storage_uri)
    with tracking_errors(tracking_uri(storage_uri)):
        found = _find(client, storage_uri)
    names = {run.info.run_id: run.info.run_name for run in found}
    return [RunSummary(**_summary(run, names, storage_uri)) for run in found]


def get_run(storage_uri: str, name_or_id: str) -> RunDetail:
    """One run by its name or MLflow run id.

    Raises TrackingError, with similar names, if there is no such run.
    """
    client = open_and_send(storage_uri)
    with tracking_errors(tracking_uri(storage_uri)):
        found = _get(client, storage_uri, name_or_id)
        parent = found.data.tags.get("mlflow.parentRunId")
        names = {parent: client.get_run(parent).info.run_name} if parent else {}
    tags = found.data.tags
    now = {key.removeprefix(_PARAM): tags[key] for key in tags if key.startswith(_PARAM)}
    return RunDetail(**_summary(found, names, storage_uri, look=True), params={**found.data.params, **now})


def run_exists(storage_uri: str, name: str) -> bool:
    """Whether the tracker or the storage folder has a run of this name."""
    client = open_and_send(storage_uri)
    with tracking_errors(tracking_uri(storage_uri)):
        return is_in_tracker(client, storage_uri, name) or storage.exists(storage.join(storage_uri, name))


def open_and_send(storage_uri: str) -> "MlflowClient":
    """``open_client``, after which what earlier processes left is sent."""
    client = open_client(storage_uri)
    send_pending(storage_uri)
    return client


def is_in_tracker(client: "MlflowClient", storage_uri: str, name: str) -> bool:
    """Whether the tracker has a run of this name and storage. Raises what MLflow raises."""
    return bool(is_name(name)) and bool(_find(client, storage_uri, f"attributes.run_name = '{name}'"))


def _find(client: "MlflowClient", storage_uri: str, condition: str = "") -> list[Any]:
    return [run for run in _pages(client, condition) if _is_of(run, storage_uri)]


def _is_of(run: Any, storage_uri: str) -> bool:
    """Whether a run is one of this storage: remote ones share a file with the folder ``./runs``."""
    recorded = run.data.tags.get("storage", "").rstrip("/")
    if tracking_uri(storage_uri) != default_uri(storage_uri) or not recorded:
        return True  # a server lists the runs of everyone
    if storage.is_remote(storage_uri):
        return bool(recorded == storage_uri.rstrip("/"))
    return not storage.is_remote(recorded)  # a folder may have been moved


def _pages(client: "MlflowClient", condition: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs(
            [experiment_id(client)], condition, order_by=["attributes.start_time DESC"], page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _get(client: "MlflowClient", storage_uri: str, name_or_id: str) -> Any:
    if is_name(name_or_id):
        for column in ("run_name", "run_id"):
            found = _find(client, storage_uri, f"attributes.{column} = '{name_or_id}'")
            if found:
                return found[0]
    import difflib

    names = [run.info.run_name for run in _find(client, storage_uri)]
    similar = difflib.get_close_matches(name_or_id, names, n=3, cutoff=0.5) or names[:3]
    raise TrackingError(
        f"no such run in {without_password(tracking_uri(storage_uri))}",
        code="unknown_run",
        key=name_or_id,
        remedy=f"it has runs such as {', '.join(similar)}" if similar else "it has no runs yet",
    )


def _summary(run: Any, names: Mapping[str, str], storage_uri: str, *, look: bool = False) -> dict[str, Any]:
    info, tags = run.info, run.data.tags
    root = root_of(storage_uri, info.run_name, info.run_id, tags, look=look)
    parent = tags.get("mlflow.parentRunId")
    return {
        "name": info.run_name,
        "run_id": info.run_id,
        "status": info.status,
        "fingerprint": tags.get("fingerprint", ""),
        "parent": names.get(parent, parent),
        "started": datetime.fromtimestamp(info.start_time // 1000, UTC).isoformat().replace("+00:00", "Z"),
        "duration_s": (info.end_time - info.start_time) / 1000 if info.end_time else None,
        "score": tags.get(SCORE_NAME),
        "best": float(tags[BEST_SCORE]) if BEST_SCORE in tags else None,
        "last": run.data.metrics.get(SCORE),
        "goodput": run.data.metrics.get(GOODPUT),
        "metrics": dict(run.data.metrics),
        "best_checkpoint": location(root, tags, "checkpoint.best"),
        "last_checkpoint": location(root, tags, "checkpoint.last"),
        "tags": dict(tags),
    }


def _datasets(uri: str, manifest: Manifest) -> list[dict[str, str]]:
    """The splits of a manifest. MLflow tells data sets apart by name and digest, of at most 36 characters."""
    source = {"uri": storage.absolute(uri)} if uri else {}
    return [
        {
            "name": f"{manifest.name}/{split}",
            "digest": manifest.content_hash[:36],
            "source_type": "s3" if uri and storage.is_remote(uri) else "local",
            "source": json.dumps(source),
            "profile": json.dumps({"samples": count}),
            "context": split,
        }
        for split, count in sorted(manifest.found.items())
    ]


def _manifest_tags(manifest: Manifest) -> dict[str, str]:
    return {
        "manifest.hash": manifest.content_hash,
        "manifest.name": manifest.name,
        **{f"manifest.found.{split}": str(count) for split, count in sorted(manifest.found.items())},
        **{f"manifest.listed.{split}": str(count) for split, count in sorted(manifest.listed.items())},
    }
