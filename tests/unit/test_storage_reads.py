"""Reading objects through the cache from a real S3 server that may fail, stall and restart."""

import io
import random
import subprocess
import sys
import time

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slow_cases import slow_after
from video_files import write_video

from kineray import storage
from kineray.errors import DecodeError, StorageError
from kineray.storage import cache, remote_file
from kineray.storage import s3 as s3_requests
from kineray.video import read_clip

DATA = random.Random(0).randbytes(300_000)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(s3_requests, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(s3_requests, "_LONGEST_PAUSE_S", 0.1)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(remote_file, "BLOCK", 10_000)


@pytest.fixture
def uri(s3_server, s3):
    """An object of 300,000 bytes; what was asked for to put it there does not count."""
    storage.write_bytes(f"{s3}/videos/a.mp4", DATA)
    s3_server.requests.clear()
    return f"{s3}/videos/a.mp4"


def read(uri, **settings):
    with storage.video_source(uri, **settings) as source:
        return source.read() if isinstance(source, io.IOBase) else source.read_bytes()


# A whole object


def test_an_object_is_downloaded_once_by_one_request(uri, s3_server):
    for _ in range(3):
        with storage.local_file(uri) as path:
            assert path.read_bytes() == DATA and path.suffix == ".mp4"
        assert read(uri) == DATA
    storage.prefetch(uri)
    assert [request.method for request in s3_server.requests] == ["GET"]


def test_a_small_object_is_prefetched(uri, s3_server):
    storage.prefetch(uri)
    s3_server.kill()
    assert read(uri) == DATA


def test_a_large_object_is_not_prefetched(uri, s3_server, monkeypatch):
    monkeypatch.setattr("kineray.storage.files.MAX_WHOLE_BYTES", 10_000)
    s3_server.pause_s = 0.01
    for _ in range(2):
        storage.prefetch(uri)
    assert s3_server.count() == 1 and s3_server.sent < len(DATA)


def test_local_files_are_not_copied(tmp_path):
    path = tmp_path / "a.mp4"
    for open_source in (storage.local_file, storage.video_source):
        with open_source(path) as source:
            assert source == path
        with open_source(str(path)) as source:
            assert source == path
    storage.prefetch(path)


def test_objects_of_two_servers_are_not_confused(uri, endpoint, monkeypatch, s3_server):
    assert read(uri) == DATA
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    storage.write_bytes(uri, b"other")
    assert read(uri) == b"other"


# Failures


def faulty(server, kind):
    {
        "503": lambda: server.fail(8),
        "500": lambda: server.fail(4, 500, "InternalError"),
        "reset": lambda: server.reset(8),
        "cut": lambda: server.cut(8, 30_000),
        "nothing sent": lambda: server.cut(4, 0),
        "slow": lambda: setattr(server, "pause_s", 0.02),
    }[kind]()


@pytest.mark.parametrize("kind", ["503", "500", "reset", "cut", "nothing sent", "slow"])
@pytest.mark.parametrize("max_whole_bytes", slow_after(1, [10**6, 0]))
def test_transient_failures_are_retried(uri, s3_server, kind, max_whole_bytes):
    faulty(s3_server, kind)
    assert read(uri, max_whole_bytes=max_whole_bytes) == DATA
    if kind == "cut" and max_whole_bytes:
        assert s3_server.sent == len(DATA)  # every byte once: a download goes on where it broke
        assert [request.range for request in s3_server.requests][1] == "bytes=30000-"


@pytest.mark.parametrize("kind", slow_after(1, ["cut", "503", "reset"]))
def test_every_kind_of_request_is_retried(s3_server, s3, kind, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "state.json").write_text("{}")
    calls = {
        "write": lambda: storage.write_bytes(f"{s3}/a", DATA),
        "read": lambda: storage.read_bytes(f"{s3}/a") == DATA,
        "list": lambda: storage.list_files(s3) == ["a"],
        "names": lambda: storage.list_names(s3) == ["a"],
        "exists": lambda: storage.exists(f"{s3}/a"),
        "put": lambda: storage.put_folder(tmp_path / "folder", f"{s3}/folder"),
        "get": lambda: storage.get_folder(f"{s3}/folder", tmp_path / "copy"),
        "delete": lambda: storage.delete_file(f"{s3}/a"),
        "delete folder": lambda: storage.delete_folder(f"{s3}/folder"),
    }
    for call in calls.values():
        {"503": s3_server.fail, "reset": s3_server.reset, "cut": lambda n: s3_server.cut(n, 100)}[kind](3)
        assert call() in {None, True}
    assert (tmp_path / "copy" / "state.json").read_text() == "{}"
    assert storage.list_files(s3) == []


@pytest.mark.parametrize("kind", ["down", "503", "cut"])
def test_lasting_failures_end_in_one_error(uri, s3_server, kind):
    if kind == "down":
        s3_server.kill()
    elif kind == "503":
        s3_server.fail(1000)
    else:
        s3_server.cut(1000, 0)
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"\(tried for \d+ s\)") as caught, storage.retry_for(0.5):
        read(uri)
    assert (caught.value.code, caught.value.key) == ("unreachable", uri)
    assert "\n" not in str(caught.value) and 0.5 <= time.monotonic() - began < 10


def test_slow_progress_is_not_given_up(uri, s3_server):
    s3_server.pause_s = 0.04
    s3_server.cut(9, 30_000)
    began = time.monotonic()
    with storage.retry_for(0.3):
        assert read(uri) == DATA
    assert time.monotonic() - began > 0.6


def test_permanent_failures_are_not_retried(uri, s3_server, s3):
    for call in (storage.read_bytes, read, storage.prefetch):
        s3_server.requests.clear()
        for missing, code in ((f"{s3}/nowhere.mp4", "not_found"), ("s3://nobody-has-this/a", "no_bucket")):
            with pytest.raises(StorageError) as caught:
                call(missing)
            assert (caught.value.code, caught.value.key) == (code, missing)
        assert len(s3_server.requests) == 2
    for reason in ("AccessDenied", "SignatureDoesNotMatch"):
        s3_server.fail(1, 403, reason)
        with pytest.raises(StorageError, match="check the credentials$") as caught:
            read(uri)
        assert (caught.value.code, caught.value.key) == ("access_denied", uri)


def test_a_long_failure_is_logged_once(uri, s3_server, monkeypatch, caplog):
    monkeypatch.setattr(s3_requests, "_WARN_AFTER_S", 0.1)
    s3_server.reset(12)
    assert read(uri) == DATA
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"{uri}: Connection was closed") and "300 s" in warning


# Parts of a large object


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.integers(-60_000, 310_000), st.integers(-1, 50_000))),
)
def test_a_remote_file_reads_like_a_local_one(uri, small_blocks, moves):
    with storage.video_source(uri, max_whole_bytes=1000) as file:
        local = io.BytesIO(DATA)
        assert file.name == uri and file.readable() and file.seekable() and not file.writable()
        for whence, offset, size in moves:
            position = {0: 0, 1: local.tell(), 2: len(DATA)}[whence] + offset
            if position < 0:
                with pytest.raises(ValueError, match="seek"):
                    file.seek(offset, whence)
                local.seek(file.tell())
                continue
            assert file.seek(offset, whence) == local.seek(position)
            assert file.read(size) == local.read(size)
            assert file.tell() == local.tell()


def test_blocks_are_fetched_once_for_all_readers(uri, s3_server, small_blocks):
    s3_server.pause_s = 0.005  # so that the first answer, which tells the size, can be ended early

    def check(first, size):
        with storage.video_source(uri, max_whole_bytes=1000) as file:
            file.seek(first)
            assert file.read(size) == DATA[first : first + size]

    check(105_000, 10)
    ranges = [request.range for request in s3_server.requests]
    assert ranges == ["", "bytes=100000-109999"]
    for first, size in [(100_000, 10_000), (109_990, 10), (105_000, 5000)]:
        check(first, size)
    assert len(s3_server.requests) == 2
    check(299_999, 100)
    assert [request.range for request in s3_server.requests[2:]] == ["bytes=290000-299999"]
    check(95_000, 20_000)  # the block between is here already
    first, second = [request.range for request in s3_server.requests[3:]]
    assert first == "bytes=90000-99999" and second.startswith("bytes=110000-")


def test_reading_ahead_ends_at_a_cached_block(uri, s3_server, small_blocks):
    with storage.video_source(uri, max_whole_bytes=1000) as file:
        for first, size in [(50_000, 10_000), (10_000, 50_000)]:
            file.seek(first)
            assert file.read(size) == DATA[first : first + size]
    ranges = ["", "bytes=50000-59999", "bytes=10000-19999", "bytes=20000-39999", "bytes=40000-49999"]
    assert [request.range for request in s3_server.requests] == ranges


def test_reading_in_order_takes_few_requests(uri, s3_server, small_blocks):
    assert read(uri, max_whole_bytes=1000) == DATA
    assert s3_server.count() <= 2 + 30 // remote_file._MOST_AHEAD + 2
    s3_server.kill()
    assert read(uri, max_whole_bytes=1000) == DATA


def test_frames_in_the_middle_of_a_long_video_take_a_small_part_of_it(s3, s3_server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_file, "BLOCK", 2**15)
    path = write_video(tmp_path / "long.mp4", frames=600, width=160, height=128, params="crf=4")
    uri, size = f"{s3}/long.mp4", path.stat().st_size
    assert size > 40 * 2**15
    storage.write_bytes(uri, path.read_bytes())
    s3_server.sent, s3_server.pause_s = 0, 0.002

    def frames(file):
        with av.open(file) as container:
            stream = container.streams.video[0]
            container.seek(int(12 / stream.time_base), stream=stream)
            decoded = (frame for frame in container.decode(stream) if frame.time >= 12)
            return np.stack([next(decoded).to_ndarray(format="rgb24") for _ in range(4)])

    with storage.video_source(uri, max_whole_bytes=1000) as file:
        assert np.array_equal(frames(file), frames(str(path)))
    assert s3_server.sent < 0.25 * size
    requests = s3_server.count()
    with storage.video_source(uri, max_whole_bytes=1000) as file:
        frames(file)
    assert s3_server.count() == requests


def test_a_failure_while_decoding_is_a_storage_error(s3, s3_server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_file, "BLOCK", 2**15)
    path = write_video(tmp_path / "long.mp4", frames=100, width=160, height=128, params="crf=4")
    storage.write_bytes(f"{s3}/long.mp4", path.read_bytes())
    with storage.video_source(f"{s3}/long.mp4", max_whole_bytes=1000) as file, av.open(file) as container:
        s3_server.kill()
        with pytest.raises(StorageError) as caught, storage.retry_for(0.2):
            list(container.decode(video=0))
        assert (caught.value.code, caught.value.key) == ("unreachable", f"{s3}/long.mp4")


@pytest.mark.parametrize("hidden", ["nothing", "etag", "if-match"])
def test_versions_of_an_object_are_never_mixed(uri, s3_server, small_blocks, hidden):
    s3_server.hidden = {hidden}
    new = random.Random(1).randbytes(len(DATA) - (hidden == "etag"))
    with storage.video_source(uri, max_whole_bytes=1000) as file:
        assert file.read(5000) == DATA[:5000]
        storage.write_bytes(uri, new)
        file.seek(200_000)
        with pytest.raises(StorageError) as caught:
            file.read(5000)
        assert (caught.value.code, caught.value.key) == ("replaced", uri)
        file.seek(0)
        assert file.read(5000) == DATA[:5000]
    assert read(uri, max_whole_bytes=1000) == new


@pytest.mark.parametrize("hidden", ["nothing", "etag", "if-match"])
def test_a_download_is_not_continued_with_another_object(uri, s3_server, hidden):
    s3_server.hidden = {hidden}
    s3_server.cut(1, 100_000)

    def replace_after_the_first(piece):
        if not pieces:
            storage.write_bytes(uri, DATA[: len(DATA) - (hidden == "etag")][::-1])
        pieces.append(piece)

    pieces = []
    with pytest.raises(StorageError) as caught:
        s3_requests.get(uri, replace_after_the_first)
    assert (caught.value.code, caught.value.key) == ("replaced", uri)


def test_errors_of_a_cached_video_name_its_uri(s3):
    storage.write_bytes(f"{s3}/text.mp4", b"no video" * 1000)
    with pytest.raises(DecodeError) as caught, storage.video_source(f"{s3}/text.mp4") as source:
        read_clip(source, [0.0])
    assert (caught.value.code, caught.value.key) == ("not_a_video", f"{s3}/text.mp4")


def test_an_object_that_does_not_fit_the_cache_is_read_in_parts(uri, s3_server, small_blocks, monkeypatch):
    monkeypatch.setenv("KINERAY_CACHE_SIZE", "150KB")
    with storage.video_source(uri) as file:
        assert isinstance(file, io.BufferedReader) and file.read() == DATA
    shared = cache.from_environment()
    assert sum(path.stat().st_size for path in (shared.folder / "objects").rglob("*.*")) <= 150_000
    with storage.local_file(uri) as path:
        assert path.read_bytes() == DATA
    assert not path.exists()


# Several processes

READ = """
import io, random, sys
from kineray.storage import remote_file
from kineray import storage
remote_file.BLOCK = 10_000
chance, data = random.Random(0), random.Random(0).randbytes(300_000)
chance.seed(sys.argv[1])
print("ready", flush=True)
for uri in sys.argv[2:]:
    with storage.video_source(uri, max_whole_bytes=100_000) as source:
        file = source.open("rb") if not isinstance(source, io.IOBase) else source
        size = file.seek(0, 2)
        for _ in range(60):
            first = chance.randrange(size)
            file.seek(first)
            assert file.read(9000) == data[:size][first : first + 9000]
"""


def readers(count, *uris):
    started = [
        subprocess.Popen([sys.executable, "-c", READ, str(n), *uris], stdout=subprocess.PIPE)
        for n in range(count)
    ]
    for process in started:
        assert process.stdout.readline() == b"ready\n"
    return started


@pytest.mark.slow
def test_processes_download_an_object_once(uri, s3_server, s3):
    small = [f"{s3}/{n}.mp4" for n in range(5)]
    for name in small:
        storage.write_bytes(name, DATA[:50_000])
    assert [process.wait(60) for process in readers(3, *small, uri)] == [0] * 3
    assert sum(not request.range for request in s3_server.requests if request.path.count("videos") == 0) == 10
    fetched = [request.range for request in s3_server.requests if request.range]
    assert len(fetched) == len(set(fetched)) <= 30


@pytest.mark.slow
def test_reads_survive_restarts_of_the_server(uri, s3_server, s3):
    small = [f"{s3}/{n}.mp4" for n in range(5)]
    for name in small:
        storage.write_bytes(name, DATA[:50_000])
    s3_server.requests.clear()
    s3_server.pause_s = 0.01
    started = readers(2, *small, uri)
    for _ in range(3):
        asked = s3_server.count()
        while s3_server.count() < asked + 4 and any(process.poll() is None for process in started):
            time.sleep(0.005)
        s3_server.kill()
        assert any(process.poll() is None for process in started)
        time.sleep(0.3)
        s3_server.restart()
    s3_server.pause_s = 0
    assert [process.wait(60) for process in started] == [0, 0]


def test_importing_storage_loads_no_heavy_package():
    heavy = "{'av', 'boto3', 'botocore', 'numpy', 'pyarrow', 'torch', 'urllib3'}"
    code = f"import sys, kineray.storage; print({heavy} & {{name.split('.')[0] for name in sys.modules}})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_without_credentials_the_error_says_what_to_set(s3, monkeypatch, tmp_path, kineray):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for wanted in ("AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):  # a part of them, and then none
        code, _, err = kineray("data", "show", f"{s3}/manifest.parquet")
        assert code == 2 and err.startswith(f"kineray: {s3}/manifest.parquet: ") and err.count("\n") == 1
        assert wanted in err
        monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    code, _, err = kineray("data", "show", f"{s3}/manifest.parquet")
    assert code == 2 and "nobody" in err and "AWS_PROFILE" in err and err.count("\n") == 1
