"""Many items in parallel: an item that hangs, crashes or fails is one outcome and disturbs no other."""

import os
import signal
import time

import pytest

from kineray.data.derive.parallel import map_in_processes
from kineray.errors import DecodeError, StorageError


def work(name, factor=1):
    """Do what the name of the item says."""
    match name:
        case "hang":
            while True:
                pass
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "bad":
            raise DecodeError("cut off", code="truncated", key="bad")
        case "gone":
            raise StorageError("no such object", code="not_found", key="s3://bucket/gone")
        case "denied":
            raise StorageError("access denied", code="access_denied", key="s3://bucket/denied")
        case "sleep":
            time.sleep(60)
    return {"pid": os.getpid(), "length": len(name) * factor}


@pytest.mark.slow
def test_every_item_has_one_outcome():
    items = ["a", "hang", "bb", "crash", "bad", "ccc", "gone", "dddd"]
    outcomes = list(
        map_in_processes(work, items, decoders=2, arguments=lambda item: (item, 3), cpu_limit_s=0.5)
    )
    assert [outcome.done for outcome in outcomes] == list(range(1, 9))
    assert sorted(outcome.item for outcome in outcomes) == sorted(items)
    results = {outcome.item: outcome.result["length"] for outcome in outcomes if outcome.error is None}
    assert results == {"a": 3, "bb": 6, "ccc": 9, "dddd": 12}
    codes = {outcome.item: outcome.error.code for outcome in outcomes if outcome.error is not None}
    assert codes == {"hang": "timeout", "crash": "crashed", "bad": "truncated", "gone": "not_found"}
    assert all(outcome.result["pid"] != os.getpid() for outcome in outcomes if outcome.error is None)


def test_an_error_that_all_items_would_have_ends_the_work():
    with pytest.raises(StorageError) as error:
        list(map_in_processes(work, ["a", "denied", "b"], decoders=1))
    assert (error.value.code, error.value.key) == ("access_denied", "s3://bucket/denied")


def test_no_items_and_more_decoders_than_items():
    assert list(map_in_processes(work, [], decoders=4)) == []
    assert len(list(map_in_processes(work, ["a", "b"], decoders=8))) == 2


def test_stopping_ends_the_children_at_once():
    start = time.monotonic()
    outcomes = map_in_processes(work, ["a", "sleep", "sleep"], decoders=2)
    pid = next(outcomes).result["pid"]
    outcomes.close()
    assert time.monotonic() - start < 20
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
