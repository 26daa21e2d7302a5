"""The journal: what is on disk is sent once and in order, even after crashes."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kineray.errors import StorageError, TrackingError
from kineray.tracking.journal import Journal


def reopened(path: Path) -> Journal:
    journal = Journal.open_abandoned(path)
    assert journal is not None
    return journal


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 400), max_size=12),
    stops=st.sets(st.integers(0, 11)),
    torn=st.binary(max_size=30).filter(lambda cut: b"\n" not in cut),
)
def test_every_metric_is_read_once_and_in_order_in_spite_of_crashes(sizes, stops, torn):
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal.create(Path(folder), "r1")
        written, read = [], []

        def take_one_batch() -> None:
            batch = journal.next_batch()
            if batch is not None:
                assert len(batch.metrics) < 1000  # MLflow refuses more
                read.extend((m["key"], m["step"]) for m in batch.metrics)
                journal.mark_sent(batch.end)

        for step, size in enumerate(sizes):
            journal.append({"metrics": {f"m{i}": float(i) for i in range(size)}, "step": step})
            written += [(f"m{i}", step) for i in range(size)]
            if step in stops:  # the writer dies in the middle of a line, and another process takes over
                take_one_batch()
                os.write(journal._descriptor, torn)
                os.close(journal._descriptor)
                journal = reopened(Path(folder) / "r1.jsonl")
        while journal.next_batch() is not None:
            take_one_batch()
        os.close(journal._descriptor)
    assert read == written


def test_a_batch_that_was_not_acknowledged_is_read_again_with_the_same_times(tmp_path):
    journal = Journal.create(tmp_path, "r1")
    journal.append({"metrics": {"loss": 0.5}, "step": 1})
    first = journal.next_batch()
    os.close(journal._descriptor)
    assert reopened(tmp_path / "r1.jsonl").next_batch() == first


def test_tags_take_their_last_value_and_a_status_ends_a_batch(tmp_path):
    journal = Journal.create(tmp_path, "r1")
    for line in (
        {"tags": {"a": "1", "b": "1"}},
        {"tags": {"a": "2"}},
        {"status": "FAILED"},
        {"tags": {"a": "3"}},
    ):
        journal.append(line)
    batch = journal.next_batch()
    assert batch.tags == {"a": "2", "b": "1"}
    assert batch.status == "FAILED"
    journal.mark_sent(batch.end)
    assert journal.next_batch().tags == {"a": "3"}


def test_values_that_are_not_finite_are_kept(tmp_path):
    journal = Journal.create(tmp_path, "r1")
    journal.append({"metrics": {"loss": float("nan"), "norm": float("inf")}, "step": 1})
    values = [m["value"] for m in journal.next_batch().metrics]
    assert values[0] != values[0]
    assert values[1] == float("inf")


def test_a_journal_is_deleted_only_when_ended_and_sent(tmp_path):
    journal = Journal.create(tmp_path, "r1")
    journal.append({"status": "FINISHED"})
    journal.close()
    journal = reopened(tmp_path / "r1.jsonl")
    journal.mark_sent(journal.next_batch().end)
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_an_addition_ends_no_run_and_stands_beside_its_journal(tmp_path):
    of_run = Journal.create(tmp_path, "r1")
    additions = [Journal.create(tmp_path, "r1", addition=True) for _ in range(2)]
    assert [journal.run_id for journal in additions] == ["r1", "r1"]
    assert additions[0].ended() and not of_run.ended()
    additions[0].append({"metrics": {"eval/top1": 0.5}, "step": 3})
    for journal in (of_run, *additions):
        journal.close()
    assert {path.name for path in tmp_path.iterdir()} == {"r1.jsonl", additions[0].path.name}
    additions[0].path.write_bytes(b"damaged\n")
    damaged = reopened(additions[0].path)
    assert (damaged.run_id, damaged.ended()) == ("r1", True)
    os.close(damaged._descriptor)


def test_a_journal_has_only_one_writer_at_a_time(tmp_path):
    journal = Journal.create(tmp_path, "r1")
    assert Journal.open_abandoned(tmp_path / "r1.jsonl") is None
    with pytest.raises(TrackingError) as error:
        Journal.create(tmp_path, "r1")
    assert (error.value.code, error.value.key) == ("run_in_use", "r1")
    os.close(journal._descriptor)
    reopened(tmp_path / "r1.jsonl")


def test_the_lines_of_a_killed_process_are_kept(tmp_path):
    program = f"""
import os, signal
from pathlib import Path
from kineray.tracking.journal import Journal
journal = Journal.create(Path({str(tmp_path)!r}), "r1")
for step in range(100):
    journal.append({{"metrics": {{"loss": 1.0}}, "step": step}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    journal = reopened(tmp_path / "r1.jsonl")
    assert [m["step"] for m in journal.next_batch().metrics] == list(range(100))
    assert not journal.ended()


def test_the_header_names_the_run_and_the_tracker_that_the_user_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://head:5000")
    Journal.create(tmp_path, "r1")
    header = json.loads((tmp_path / "r1.jsonl").read_text().splitlines()[0])
    assert header == {"run_id": "r1", "tracking_uri": "http://head:5000"}


def journal_of(folder, steps):
    """The file of a journal with one metric per step, whose writer has died."""
    journal = Journal.create(folder, "r1")
    for step in range(steps):
        journal.append({"metrics": {"loss": 1.0}, "step": step})
    os.close(journal._descriptor)
    return folder / "r1.jsonl"


def steps_of(journal):
    batch = journal.next_batch()
    return [metric["step"] for metric in batch.metrics] if batch else []


def closed(journal):
    """What is in the folder after all of a journal was sent."""
    journal.append({"status": "KILLED"})
    while (batch := journal.next_batch()) is not None:
        journal.mark_sent(batch.end)
    journal.close()
    return sorted(path.suffix for path in journal.path.parent.iterdir())


@pytest.mark.parametrize("content", [b"", b"\0" * 3_000_000, b"{\n", b"[1]\n", b"\xff\xfe\n", b"noise"])
def test_a_journal_with_nothing_readable_in_it_is_set_aside(tmp_path, content):
    (tmp_path / "r1.jsonl").write_bytes(content)
    journal = reopened(tmp_path / "r1.jsonl")
    assert journal.run_id == "r1"  # by the name of the file
    assert steps_of(journal) == []
    assert closed(journal) == [".aside"]


@pytest.mark.parametrize(
    "damage", [b"\0" * 2_000_000, b"\0\0\n", b"{\n", b"[1]\n", b'{"metrics": 1, "time_ms": 1}\n']
)
def test_lines_around_damaged_ones_are_read_and_the_file_is_set_aside(tmp_path, damage):
    path = journal_of(tmp_path, 3)
    with path.open("ab") as file:
        file.write(damage)
    journal = reopened(path)
    journal.append({"metrics": {"loss": 1.0}, "step": 3})
    assert steps_of(journal) == [0, 1, 2, 3]
    assert closed(journal) == [".aside"]


@pytest.mark.parametrize("sent", [b"", b"\0\0", b"-1", b"99999999", b"a"])
def test_without_a_readable_offset_everything_is_sent_again(tmp_path, sent):
    path = journal_of(tmp_path, 3)
    path.with_suffix(".sent").write_bytes(sent)
    journal = reopened(path)
    assert steps_of(journal) == [0, 1, 2]
    assert closed(journal) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to give files away")
def test_the_journal_of_another_user_is_left_to_that_user(tmp_path):
    path = journal_of(tmp_path, 1)
    os.chown(path, 12345, -1)
    before = path.read_bytes()
    assert Journal.open_abandoned(path) is None
    assert path.read_bytes() == before


def test_a_line_that_does_not_fit_on_the_disk_leaves_no_part_of_it(small_disk):
    journal = Journal.create(small_disk, "r1")
    with pytest.raises(StorageError) as error:
        for step in range(100_000):
            journal.append({"tags": {"text": "x" * 1000}, "metrics": {"loss": 1.0}, "step": step})
    assert (error.value.code, error.value.key) == ("disk_full", str(journal.path))
    (small_disk / "filler").unlink()
    journal.append({"metrics": {"loss": 2.0}, "step": 200_000})
    read = []
    while (batch := journal.next_batch()) is not None:
        read += [metric["step"] for metric in batch.metrics]
        journal.mark_sent(batch.end)
    assert read == [*range(step), 200_000]


def test_files_follow_the_umask(tmp_path):
    for mask, mode in ((0o002, 0o664), (0o027, 0o640)):
        before = os.umask(mask)
        try:
            journal = Journal.create(tmp_path / str(mask), "r1")
            journal.mark_sent(0)
        finally:
            os.umask(before)
        assert {path.stat().st_mode & 0o777 for path in journal.path.parent.iterdir()} == {mode}
