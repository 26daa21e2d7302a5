"""Which service a record tells of, and one change of a storage at a time: real processes, without Ray."""

import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from kineray.errors import ServingError, TrackingError
from kineray.processes import start_of
from kineray.serving import find_service, serve, stop_service
from kineray.serving.lock import one_change
from kineray.serving.record import BEAT_S, delete, here, refresh, write


@pytest.fixture
def own(tmp_path):
    """A record of this process."""
    return here("this", str(tmp_path), "model", "http://127.0.0.1:9", "http://127.0.0.1:9")


@pytest.fixture
def ended():
    """The pid and the start of a process that has ended."""
    process = subprocess.Popen(["sleep", "60"])
    started = start_of(process.pid)
    process.kill()
    process.wait()
    return {"pid": process.pid, "started": started}


@pytest.fixture
def endpoint():
    """The URL of an endpoint that answers as the service ``this``."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"live": True, "service": "this"}).encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def find(record, **changes):
    write(dataclasses.replace(record, **changes))
    return find_service(record.storage)


def test_a_service_whose_process_runs(own):
    found = find(own)
    assert (found.id, found.pid, found.has_process()) == ("this", os.getpid(), True)


def test_a_pid_that_another_process_has_now(own):
    """Also that of a pod that was made anew under its old name."""
    assert find(own, started="1") is None


def test_a_service_that_was_killed(own, ended):
    assert find(own, **ended) is None
    assert find(own, pid=2**22 + 1) is None


def test_what_answers_as_a_service_is_one_although_its_process_is_gone(own, ended, endpoint):
    found = find(own, url=endpoint, **ended)
    assert found is not None and not found.has_process()
    assert find(own, url=endpoint, id="another", **ended) is None


def test_a_service_on_another_host_is_one_as_long_as_it_writes_its_record(own):
    found = find(own, host="elsewhere", pid=1)
    assert found is not None and found.has_process()
    path = Path(own.storage, "serve.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"beat": time.time() - 10 * BEAT_S}))
    assert find_service(own.storage) is None


def test_a_record_that_was_copied_with_its_storage(own, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    write(own)
    (copy / "serve.json").write_bytes((tmp_path / "serve.json").read_bytes())
    assert find_service(str(copy)) is None
    (tmp_path / "link").symlink_to(tmp_path)
    assert find_service(f"{tmp_path}/link") is not None


@pytest.mark.parametrize("content", ["{}", "[]", "not JSON", '{"pid": 1}'])
def test_a_file_that_is_no_record(tmp_path, content):
    (tmp_path / "serve.json").write_text(content)
    with pytest.raises(ServingError) as error:
        find_service(str(tmp_path))
    assert (error.value.code, error.value.key) == ("not_a_record", f"{tmp_path}/serve.json")


def test_a_record_that_another_service_has_replaced_is_left_alone(own):
    other = dataclasses.replace(own, id="other")
    write(other)
    assert not refresh(own)
    delete(own)
    assert find_service(own.storage).id == "other"
    assert refresh(other)
    delete(other)
    assert find_service(own.storage) is None
    assert refresh(other)  # deleted by hand: it is written again
    assert find_service(own.storage).id == "other"


def test_stopping_a_service(own):
    assert not stop_service(own.storage)
    process = subprocess.Popen(["sleep", "60"])
    write(dataclasses.replace(own, pid=process.pid, started=start_of(process.pid)))
    assert stop_service(own.storage)  # although nobody has waited for it
    assert process.wait() != 0
    write(dataclasses.replace(own, host="elsewhere"))
    with pytest.raises(ServingError) as error:
        stop_service(own.storage)
    assert error.value.code == "other_host"


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/page", "ftp://example.org", ""])
def test_what_is_no_web_origin(tmp_path, origin):
    with pytest.raises(ServingError) as error:
        serve(storage=str(tmp_path), cors=["https://example.org:8443", "*", origin])
    assert (error.value.code, error.value.key, error.value.value) == ("bad_origin", "cors", origin)


def changing(storage, log):
    with one_change(storage), log.open("a") as file:
        file.write("begin\n")
        file.flush()
        time.sleep(0.05)
        file.write("end\n")


@pytest.mark.parametrize("storage", ["local", "s3://bucket/of/tests"])
def test_one_change_at_a_time(tmp_path, storage):
    log = tmp_path / "log"
    storage = str(tmp_path) if storage == "local" else f"{storage}{os.getpid()}"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=changing, args=(storage, log)) for _ in range(5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert log.read_text().split() == ["begin", "end"] * 5


def test_the_lock_ends_with_its_process(tmp_path):
    program = (
        "import sys, time; from kineray.serving.lock import one_change\n"
        "with one_change(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        threading.Timer(0.3, process.kill).start()
        started = time.monotonic()
        with one_change(str(tmp_path)):
            assert time.monotonic() - started > 0.2


def test_a_folder_in_which_no_lock_can_be_made(tmp_path):
    with one_change(f"{tmp_path}/missing"):
        pass


def test_a_service_in_the_background_that_cannot_start(tmp_path):
    """What ends its process is what the caller gets."""
    with pytest.raises(TrackingError) as error:
        serve(storage=f"{tmp_path}/runs", background=True)
    assert (error.value.code, error.value.key) == ("unknown_version", "video-classifier")
    assert "video-classifier" in (tmp_path / "runs" / "serve.log").read_text()
