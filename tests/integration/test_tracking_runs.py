"""Runs against a real MLflow: on SQLite, and on a server that stops and starts again."""

import contextlib
import json
import logging
import math
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tensorboardX.proto.event_pb2 import Event

from kineray.config import Experiment, apply_overrides, as_argument, fingerprint, from_yaml, leaf_keys
from kineray.data import Manifest, Sample
from kineray.errors import ConfigError, TrackingError
from kineray.tracking import (
    BEST_SCORE,
    PROBLEM,
    SCORE,
    check_tracking,
    claim_name,
    get_run,
    list_runs,
    resume_run,
    run_exists,
    send_pending,
    start_run,
    tracking_uri,
)

MANIFEST = Manifest(
    name="four",
    samples=tuple(
        Sample(
            id=f"s{i}",
            uri=f"s{i}.mp4",
            start_s=0.0,
            end_s=None,
            labels={"action": i % 2},
            group="",
            split=split,
        )
        for i, split in enumerate(["train", "train", "train", "val"])
    ),
    vocabularies={"action": ("left", "right")},
    missing={"train": ("lost1.mp4", "lost2.mp4")},
)
EXPERIMENT = Experiment(name="slowfast")
DATASET = {"name": "d", "digest": "1", "source_type": "local", "source": "{}"}


def refused(kind, code, key):
    """A context in which exactly this error is raised."""
    return pytest.raises(kind, check=lambda error: (error.code, error.key) == (code, str(key)))


@pytest.fixture(autouse=True)
def _no_other_tracker(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One storage folder for the tests that do not need an empty one: making the database takes seconds."""
    return str(tmp_path_factory.mktemp("runs"))


def start(storage_uri, name, experiment=EXPERIMENT, **more):
    more = {"manifest": MANIFEST, "command": ["kineray", "train", "experiments/slowfast.py"], **more}
    return start_run(
        storage_uri, name=name, experiment=experiment, fingerprint=fingerprint(experiment), **more
    )


def history(storage_uri, name, key):
    client = MlflowClient(tracking_uri(storage_uri))
    return [(m.step, m.value) for m in client.get_metric_history(get_run(storage_uri, name).run_id, key)]


def test_a_run_records_everything_that_was_written(store):
    experiment = apply_overrides(EXPERIMENT, ["optim.lr=0.05", "data.frames=16"])
    run = start(store, "whole", experiment)
    for step in range(1, 1501):
        run.log_metrics({"train/loss": 1 / step, "train/lr": 0.1}, step)
    run.log_metrics({"val/verb/top1": 0.5, "val/verb/top5": 0.9, SCORE: 0.375}, 1500)
    run.set_tags({"checkpoint.last": "/x/last", "checkpoint.best": "/x/best", BEST_SCORE: "0.5"})
    run.finish()

    detail = get_run(store, "whole")
    assert detail.status == "FINISHED"
    assert detail.params == {key: as_argument(value) for key, value in leaf_keys(experiment).items()}
    assert detail.params["optim.lr"] == "0.05"
    assert detail.fingerprint == fingerprint(experiment)
    assert (detail.best_checkpoint, detail.last_checkpoint) == ("/x/best", "/x/last")
    assert (detail.best, detail.last) == (0.5, 0.375)
    assert detail.metrics["val/verb/top5"] == 0.9
    assert detail.tags["manifest.hash"] == MANIFEST.content_hash
    assert detail.tags["manifest.found.train"] == "3"
    assert detail.tags["manifest.listed.train"] == "5"
    assert detail.tags["command"] == "kineray train experiments/slowfast.py"
    assert detail.tags["version.python"].startswith("3.")
    assert "version.torch" in detail.tags
    assert history(store, "whole", "train/loss") == [(step, 1 / step) for step in range(1, 1501)]
    assert not list(Path(store, "pending").iterdir())


def scalars(folder):
    """(tag, step, value) of every scalar in the TensorBoard event files of a folder."""
    found = []
    for file in folder.iterdir():
        data, start = file.read_bytes(), 0
        while start < len(data):  # TFRecord: the length and its checksum, the content and its checksum
            (size,) = struct.unpack_from("<Q", data, start)
            event = Event.FromString(data[start + 12 : start + 12 + size])
            found += [(one.tag, event.step, one.simple_value) for one in event.summary.value]
            start += size + 16
    return found


def test_metrics_are_written_for_tensorboard_if_asked(store):
    run = start(store, "shown")
    run.write_tensorboard()
    run.log_metrics({"train/loss": 0.5, "train/lr": 0.25}, 1)
    run.log_metrics({"train/loss": 0.125}, 2)
    run.log_metrics({"train/loss": 3.0}, 2)  # repeated after a resume
    run.finish()
    expected = [("train/loss", 1, 0.5), ("train/lr", 1, 0.25), ("train/loss", 2, 0.125)]
    assert scalars(Path(store, "shown", "tensorboard")) == expected


def test_a_run_records_its_data_sets_its_code_and_its_environment(store, tmp_path):
    script = tmp_path / "mine.py"
    script.write_text("import helper\nexperiment = 1\n")
    (tmp_path / "helper.py").write_text("# imported beside it\n")
    own = apply_overrides(EXPERIMENT, {"data.manifest": str(tmp_path / "m.parquet")})
    data = Manifest("own", MANIFEST.samples, MANIFEST.vocabularies)
    run = start(store, "complete", own, manifest=data, command=["kineray", "train", str(script)])
    start(store, "complete/a", own, manifest=data, parent=run.run_id).finish()
    run.finish()
    client = MlflowClient(tracking_uri(store))
    inputs = client.get_run(run.run_id).inputs.dataset_inputs
    assert {(one.dataset.name, one.tags[0].key, one.tags[0].value) for one in inputs} == {
        ("own/train", "mlflow.data.context", "train"),
        ("own/val", "mlflow.data.context", "val"),
    }
    assert {one.dataset.digest for one in inputs} == {data.content_hash[:36]}
    assert json.loads(inputs[0].dataset.source) == {"uri": str(tmp_path / "m.parquet")}
    files = artifacts(client, run.run_id, tmp_path / "all")
    assert from_yaml(files["experiment.yaml"]) == own
    assert {"code/mine.py", "code/helper.py"} <= set(files)
    assert files["code/mine.py"] == script.read_text()
    assert re.search(r"^mlflow==3\.", files["environment.txt"], re.M)
    trial = get_run(store, "complete/a")
    assert set(artifacts(client, trial.run_id, tmp_path / "trial")) == {"experiment.yaml"}
    assert client.get_run(trial.run_id).inputs.dataset_inputs
    assert not list(Path(store, "pending").iterdir())


def artifacts(client, run_id, folder):
    """The artifacts of a run: {path: text}."""
    folder.mkdir()
    root = Path(client.download_artifacts(run_id, "", str(folder)))
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_the_database_and_the_artifacts_are_in_the_storage(store):
    run = start(store, "place")
    run.finish()
    assert Path(store, "mlflow.db").exists()
    client = MlflowClient(tracking_uri(store))
    assert client.get_run(run.run_id).info.artifact_uri.startswith(f"{store}/artifacts/")


def test_a_group_that_shares_a_storage_can_write_its_database(tmp_path):
    before = os.umask(0o002)
    try:
        list_runs(str(tmp_path))
    finally:
        os.umask(before)
    assert (tmp_path / "mlflow.db").stat().st_mode & 0o777 == 0o664


def test_runs_are_listed_newest_first_with_their_parents(store):
    sweep = start(store, "sweep")
    trial = start(store, "sweep/optim.lr=0.1", parent=sweep.run_id)
    trial.finish("FAILED")
    sweep.finish("KILLED")
    first, second = list_runs(store)[:2]
    assert (first.name, first.parent, first.status) == ("sweep/optim.lr=0.1", "sweep", "FAILED")
    assert (second.name, second.parent, second.status) == ("sweep", None, "KILLED")
    assert get_run(store, first.run_id) == get_run(store, first.name)
    assert get_run(store, first.name).parent == "sweep"
    assert first.duration_s >= 0


def test_a_resumed_run_does_not_record_a_step_twice(store):
    run = start(store, "again")
    for step in range(10):
        run.log_metrics({"train/loss": float(step)}, step)
    run.set_tags({PROBLEM: "a full disk"})
    run.finish("FAILED")
    assert get_run(store, "again").tags[PROBLEM] == "a full disk"
    run = resume_run(store, "again")
    assert get_run(store, "again").status == "RUNNING"
    assert PROBLEM not in get_run(store, "again").tags
    for step in range(6, 14):  # from the checkpoint of step 5
        run.log_metrics({"train/loss": float(step), "val/loss": 1.0}, step)
    run.finish()
    assert history(store, "again", "train/loss") == [(step, float(step)) for step in range(14)]
    assert [step for step, _ in history(store, "again", "val/loss")] == list(range(6, 14))
    assert get_run(store, "again").status == "FINISHED"


def test_appended_metrics_go_on_after_a_resume(store):
    run = start(store, "appended")
    run.append_metrics({"system/x": 1.0})
    run.append_metrics({"system/x": 2.0})
    run.finish("KILLED")
    run = resume_run(store, "appended")
    run.append_metrics({"system/x": 3.0})
    run.finish()
    assert history(store, "appended", "system/x") == [(0, 1.0), (1, 2.0), (2, 3.0)]


def test_values_that_are_not_finite_are_recorded(store):
    run = start(store, "nan")
    run.log_metrics({"train/loss": math.nan}, 1)
    run.finish("FAILED")
    assert math.isnan(get_run(store, "nan").metrics["train/loss"])


def test_names_that_are_taken_or_not_valid_are_refused(store):
    start(store, "taken").finish()
    with refused(ConfigError, "name_taken", "name"):
        start(store, "taken")
    for bad in ("", "../up", "a b", "x'y", "/abs", "a/../b", "n" * 251):
        with refused(ConfigError, "bad_name", "name"):
            start(store, bad)
    start(store, "taken-2").finish()
    assert claim(store, "taken") == "taken-3"
    assert claim(store, "taken") == "taken-4"  # its folder is there already
    Path(store, "folder").mkdir()  # a run's checkpoints, say, whose record is in another tracker
    assert not run_exists(store, "folder-2")
    assert claim(store, "folder") == "folder-2"
    assert run_exists(store, "folder")
    for name, code in (("taken", "name_taken"), ("folder", "name_taken"), ("../up", "bad_name")):
        with refused(ConfigError, code, "name"):
            claim(store, name, numbered=False)
    assert not Path(store, "..", "up").exists()


def test_a_run_that_ended_before_its_first_checkpoint_gives_up_its_name(store, caplog):
    for status in ("FAILED", "KILLED"):
        name = f"early-{status}"
        old = failed(store, name, status)
        assert claim(store, name, numbered=False) == name
        with refused(TrackingError, "unknown_run", old.run_id):
            get_run(store, old.run_id)
        assert [path.name for path in Path(store, name).iterdir()] == ["experiment.yaml"]
        assert any("out of memory" in r.getMessage() and name in r.getMessage() for r in caplog.records)
    assert not list(Path(store).glob(".replaced-*"))
    failed(store, "numbered")  # whoever names no run takes none away
    assert claim(store, "numbered") == "numbered-2"


def test_a_run_that_has_a_checkpoint_or_trials_with_one_or_is_running_keeps_its_name(store):
    failed(store, "recorded", tags={"checkpoint.last": "recorded/checkpoints/step-00000001"})
    failed(store, "unrecorded")
    failed(store, "search", parts=["search/a", "search/b"])
    for run in ("unrecorded", "search/b"):  # their drivers were lost before they heard of them
        index = Path(store, run, "checkpoints", "index.json")
        index.parent.mkdir(parents=True)
        index.write_text("{}")
    running = start(store, "running")
    for name in ("recorded", "unrecorded", "search", "running"):
        with refused(ConfigError, "name_taken", "name"):
            claim(store, name, numbered=False)
    running.finish()
    failed(store, "search-2", parts=["search-2/a"])
    assert claim(store, "search-2", numbered=False) == "search-2"
    assert not run_exists(store, "search-2/a")


def test_of_two_that_use_a_name_again_one_gets_it(store, monkeypatch):
    """The second decides before the first is done, and acts after it."""
    from kineray.tracking import claim as module

    old = failed(store, "again-2")
    before = module._failed_early(store, "again-2")
    assert claim(store, "again-2", numbered=False) == "again-2"
    start(store, "again-2").finish("FAILED")
    answers = iter([before])
    really = module._failed_early
    monkeypatch.setattr(module, "_failed_early", lambda *given: next(answers, None) or really(*given))
    with refused(ConfigError, "name_taken", "name"):
        claim(store, "again-2", numbered=False)
    assert get_run(store, "again-2").run_id != old.run_id


def failed(storage_uri, name, status="FAILED", *, tags=None, parts=()):
    """A run as a failure leaves it: a folder and a record; ``parts``: trials that failed, too."""
    claim(storage_uri, name, numbered=False)
    run = start(storage_uri, name)
    run.set_tags({PROBLEM: "out of memory", **(tags or {})})
    for part in parts:
        start(storage_uri, part, parent=run.run_id).finish("FAILED")
    run.finish(status)
    return run


def claim(storage_uri, name, *, numbered=True):
    return claim_name(storage_uri, name, numbered=numbered, file="experiment.yaml", data=b"")


@pytest.mark.slow
def test_runs_that_start_at_the_same_time_have_different_names(tmp_path):
    """In a storage that is new, too: they make its database together."""
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import mlflow.store.tracking.sqlalchemy_store
from {Path(__file__).stem} import claim, start
print("ready", flush=True)
sys.stdin.readline()
name = claim({str(tmp_path)!r}, "run")
start({str(tmp_path)!r}, name).finish()
print(name)
"""
    arguments = [sys.executable, "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(arguments, **pipes) for _ in range(4)]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    names = {process.communicate()[0].strip() for process in processes}
    assert names == {"run", "run-2", "run-3", "run-4"}
    assert {run.name for run in list_runs(str(tmp_path))} == names


def test_an_unknown_run_is_one_line_with_similar_names(store):
    start(store, "resnet-long-name").finish()
    with refused(TrackingError, "unknown_run", "resnet-long-nam") as raised:
        get_run(store, "resnet-long-nam")
    assert "resnet-long-name" in raised.value.remedy
    assert "\n" not in str(raised.value)
    with refused(TrackingError, "unknown_run", "it's"):
        resume_run(store, "it's")


def test_a_run_has_only_one_writer_at_a_time(store):
    run = start(store, "alive")
    with refused(TrackingError, "run_in_use", run.run_id):
        resume_run(store, "alive")
    assert get_run(store, "alive").status == "RUNNING"
    run.finish()


def test_the_git_commit_and_the_differences_from_it_are_recorded(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
        return subprocess.run(
            ["git", *identity, *arguments], check=True, capture_output=True, text=True
        ).stdout

    start(store, "no-git").finish()
    assert "mlflow.source.git.commit" not in get_run(store, "no-git").tags
    git("init", "-q")
    Path("a.py").write_text("one\n")
    git("add", "."), git("commit", "-qm", "first")
    start(store, "clean").finish()
    assert get_run(store, "clean").tags["git.dirty"] == "false"
    Path("a.py").write_text("two\n")
    Path("new.py").write_text("")
    start(store, "dirty").finish()
    detail = get_run(store, "dirty")
    assert detail.tags["mlflow.source.git.commit"] == git("rev-parse", "HEAD").strip()
    assert detail.tags["git.dirty"] == "true"
    patch = Path(
        MlflowClient(tracking_uri(store)).download_artifacts(detail.run_id, "diff.patch")
    ).read_text()
    assert "# untracked: new.py" in patch
    assert "-one\n+two" in patch


@pytest.mark.slow
def test_a_killed_process_loses_nothing(store):
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from {Path(__file__).stem} import start
run = start({store!r}, "killed")
for step in range(1, 2001):
    run.log_metrics({{"train/loss": float(step)}}, step)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    assert len(list(Path(store, "pending").glob("*.jsonl"))) == 1
    detail = get_run(store, "killed")  # any command sends the journals that are left
    assert detail.status == "KILLED"
    assert history(store, "killed", "train/loss") == [(step, float(step)) for step in range(1, 2001)]
    run = resume_run(store, "killed")
    run.log_metrics({"train/loss": 0.0}, 2001)
    run.finish()
    assert get_run(store, "killed").status == "FINISHED"


def abandon(run):
    """End a run as a killed process does; returns the file of its journal."""
    run.log_metrics({"train/loss": 1.0}, 1)
    for writing in run._files:
        writing.join()
    run._sender.stop()
    os.close(run._journal._descriptor)
    return run._journal.path


def warnings_of(caplog):
    caplog.clear()
    list_runs(caplog.store)
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_one_run_left_does_not_stop_the_commands_of_others(store, caplog):
    """Each is set aside, dropped or left with one warning, and none is tried again."""
    caplog.store = store
    empty, deleted = map(abandon, [start(store, name) for name in ("power-cut", "deleted-since")])
    empty.write_bytes(b"")
    MlflowClient(tracking_uri(store)).delete_run(deleted.stem)
    unheard_of = empty.with_stem("0" * 32)
    unheard_of.write_text(json.dumps({"run_id": unheard_of.stem, "tracking_uri": None}) + "\n")

    found = warnings_of(caplog)
    assert len(found) == 3
    assert [sum(path.stem in text for text in found) for path in (empty, deleted, unheard_of)] == [1, 1, 1]
    assert get_run(store, "power-cut").status == "KILLED"
    (aside,) = Path(store, "pending").iterdir()
    assert aside.name.startswith(empty.stem)
    assert warnings_of(caplog) == []
    resume_run(store, "power-cut").finish()
    aside.unlink()


def test_what_mlflow_refuses_is_left_out_and_the_rest_is_recorded(store, caplog):
    run = start(store, "refused")
    for step in range(1, 6):
        run.log_metrics({"train/loss": 1.0, **({"a;b\\c": 1.0} if step == 3 else {})}, step)
    run.set_tags({"t" * 300: "x"})
    run.finish("FAILED")
    assert get_run(store, "refused").status == "FAILED"
    assert [step for step, _ in history(store, "refused", "train/loss")] == [1, 2, 4, 5]
    (aside,) = Path(store, "pending").iterdir()
    assert len([r for r in caplog.records if str(aside) in r.getMessage()]) == 1
    aside.unlink()


def test_a_run_that_is_deleted_while_it_is_written_ends_quietly(store, caplog):
    run = start(store, "deleted-meanwhile")
    MlflowClient(tracking_uri(store)).delete_run(run.run_id)
    run.log_metrics({"train/loss": 1.0}, 1)
    run.finish()
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
    assert not list(Path(store, "pending").iterdir())


def test_a_tracker_that_is_gone_is_asked_once_for_all_its_runs(tmp_path, monkeypatch, caplog):
    gone = f"http://127.0.0.1:{free_port()}"
    for path in map(abandon, [start(str(tmp_path), name) for name in ("a", "b")]):
        header = {"run_id": path.stem, "tracking_uri": gone}
        path.write_text(json.dumps(header) + "\n" + path.read_text().split("\n", 1)[1])
    assert send_pending(str(tmp_path)) == 2
    assert len([r for r in caplog.records if gone in r.getMessage()]) == 1
    assert len(list(Path(tmp_path, "pending").glob("*.jsonl"))) == 2


def test_a_tracker_that_does_not_answer_is_one_line_without_its_password(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{free_port()}")
    for attempt in (lambda: start(str(tmp_path), "a"), lambda: check_tracking(str(tmp_path))):
        with pytest.raises(TrackingError) as raised:
            attempt()
        assert raised.value.code == "unreachable"
        assert "connection refused" in raised.value.problem
        assert "secret" not in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_storage_that_cannot_be_written(tmp_path):
    check_tracking(str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()  # a check creates nothing
    (tmp_path / "file").write_text("")
    with refused(TrackingError, "unreachable", f"sqlite:///{tmp_path}/file/mlflow.db"):
        list_runs(str(tmp_path / "file"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def mlflow_server(folder, port):
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        f"{folder}/files",
    ]
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it has its own session: this ends the server and its worker
        process.wait()


@pytest.mark.slow
def test_nothing_is_lost_if_the_server_stops_during_a_run_and_starts_again(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "kineray")
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    storage_uri = str(tmp_path / "runs")

    def write(run, steps):
        for step in steps:
            run.log_metrics({"train/loss": 1 / step}, step)
            time.sleep(0.01)

    with mlflow_server(tmp_path, port):
        back, gone, late = (start(storage_uri, name) for name in ("back", "gone", "late"))
        write(back, range(1, 150)), write(gone, range(1, 150))
    write(back, range(150, 300)), write(gone, range(150, 300))  # the server is down, nothing raises
    gone.finish()
    late.add_datasets([{**DATASET, "context": "train"}])
    late.add_files(lambda: {"experiment.yaml": "late", "environment.txt": "late"})
    late.finish()
    down = [r.getMessage() for r in caplog.records if "cannot be reached" in r.getMessage()]
    assert len(down) == 4, down  # once for each run, and for the files, however often it was tried
    assert any("the next kineray command here sends it" in r.getMessage() for r in caplog.records)
    assert send_pending(storage_uri) == 3  # of `late`, the files are apart
    with refused(TrackingError, "unreachable", f"http://127.0.0.1:{port}"):
        list_runs(storage_uri)

    with mlflow_server(tmp_path, port):
        write(back, range(300, 400))
        back.finish()
        assert get_run(storage_uri, "back").status == get_run(storage_uri, "gone").status == "FINISHED"
        assert history(storage_uri, "back", "train/loss") == [(step, 1 / step) for step in range(1, 400)]
        assert history(storage_uri, "gone", "train/loss") == [(step, 1 / step) for step in range(1, 300)]
        late = {run.run_id: run for run in (back, gone, late)}
        for run_id in late:
            client = MlflowClient(tracking_uri(storage_uri))
            assert client.get_run(run_id).inputs.dataset_inputs
            assert {"experiment.yaml", "environment.txt"} <= set(artifacts(client, run_id, tmp_path / run_id))
    assert not list(Path(storage_uri, "pending").iterdir())
    assert any("answers again" in r.getMessage() for r in caplog.records)


ODD = "what? 50%, a%20b#c d'ü"


def test_any_path_can_hold_the_records(tmp_path, monkeypatch):
    """Paths become URLs by quoting: nothing is written beside the folder."""
    monkeypatch.chdir(tmp_path)
    run = start(ODD, "one")
    MlflowClient(tracking_uri(ODD)).log_text(run.run_id, "text", "diff.patch")
    run.finish()
    assert [each.name for each in list_runs(ODD)] == ["one"]
    assert {"mlflow.db", "artifacts"} <= {path.name for path in (tmp_path / ODD).iterdir()}
    assert len(list((tmp_path / ODD / "artifacts").rglob("diff.patch"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == [ODD]


def test_runs_of_a_bucket_and_of_the_local_folder_are_listed_apart(tmp_path, monkeypatch, s3):
    """They share the file ./runs/mlflow.db."""
    monkeypatch.chdir(tmp_path)
    for storage_uri in ("runs", f"{s3}/a", f"{s3}/b/"):
        start(storage_uri, "same").finish()
    ids = {}
    for storage_uri in ("runs", f"{s3}/a/", f"{s3}/b"):
        (found,) = list_runs(storage_uri)
        assert get_run(storage_uri, "same").run_id == found.run_id
        ids[found.run_id] = get_run(storage_uri, "same").tags["storage"].rstrip("/")
    assert sorted(ids.values()) == sorted([str(tmp_path / "runs"), f"{s3}/a", f"{s3}/b"])
    assert list_runs(f"{s3}/c") == []
    with refused(TrackingError, "unknown_run", "same"):
        get_run(f"{s3}/c", "same")
