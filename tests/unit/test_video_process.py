"""A child process that decodes: it is ended when it hangs, replaced when it crashes, and returns arrays."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from video_files import reference_clip, write_video

from kineray.errors import ConfigError, DecodeError, KinerayError, StorageError
from kineray.video import read_clip
from kineray.video.process import DecodeProcess, allocate, decode_process


@pytest.fixture
def process():
    process = DecodeProcess(cpu_limit_s=5)
    yield process
    process.close()


def test_a_clip_comes_back_whole(process, tmp_path):
    path = write_video(tmp_path / "video.mp4")
    for times in ([0.1, 0.7], [1.2]):
        clip = process.call(read_clip, str(path), times, name=str(path))
        np.testing.assert_array_equal(clip, reference_clip(path, times))


def test_values_of_every_kind_come_back(process):
    values = [
        1,
        2.5,
        "a",
        None,
        True,
        b"bytes",
        {"k": np.arange(5), "empty": np.zeros((0, 3))},
        [np.float32(2)],
    ]
    back = process.call(list, values, name="x")
    assert back[:6] == values[:6] and back[7] == [2.0]
    np.testing.assert_array_equal(back[6]["k"], np.arange(5))
    assert back[6]["empty"].shape == (0, 3)
    assert process.call(tuple, [1, 2], name="x") == [1, 2]


def test_memory_grows_and_is_reused(process):
    small = process.call(allocate, (10,), name="x")
    assert small.shape == (10,) and small.dtype == np.uint8
    large = process.call(np.full, (3, 5_000_000), 7, name="x")
    assert large.shape == (3, 5_000_000) and (large == 7).all()
    size = process.shared_bytes
    for _ in range(3):
        process.call(np.full, (3, 5_000_000), 8, name="x")
    assert process.shared_bytes == size


def divide(one, other):
    return one / other


def test_errors_cross_the_process_border(process, tmp_path):
    missing = tmp_path / "none.mp4"
    with pytest.raises(DecodeError) as caught:
        process.call(read_clip, str(missing), [0.0], name="none.mp4")
    assert (caught.value.code, caught.value.key) == ("not_found", str(missing))
    with pytest.raises(RuntimeError, match="x: ZeroDivisionError") as caught:
        process.call(divide, 1, 0, name="x")
    assert re.search(rf'File "{__file__}", line \d+, in divide', caught.value.__notes__[0])
    assert process.call(divmod, 7, 2, name="x") == [3, 1]


def fail_with(kind):
    raise kind("broken", code="a_code", key="a.key", value=3, remedy="mend it")


class OwnError(StorageError):
    """Of a class that the parent need not know."""


@pytest.mark.parametrize("kind", [ConfigError, StorageError, DecodeError, OwnError])
def test_an_error_keeps_all_its_fields(process, kind):
    with pytest.raises(KinerayError) as caught:
        process.call(fail_with, kind, name="x")
    error = caught.value
    assert type(error) is (StorageError if kind is OwnError else kind)
    assert str(error) == "a.key=3: broken; mend it"
    assert (error.problem, error.code, error.key, error.remedy) == ("broken", "a_code", "a.key", "mend it")


LOOPS_IN_C = (re.match, "(a+)+$", "a" * 50 + "b")  # for longer than anyone waits
WAITS = (time.sleep, 1000)


@pytest.mark.parametrize(
    ("limits", "call"), [({"cpu_limit_s": 0.3}, LOOPS_IN_C), ({"wall_limit_s": 0.3}, WAITS)]
)
def test_a_call_that_hangs_is_ended(limits, call):
    process = DecodeProcess(**limits)
    try:
        started = time.monotonic()
        with pytest.raises(DecodeError, match=r"0\.3 s") as caught:
            process.call(*call, name="bad.mp4")
        assert (caught.value.code, caught.value.key) == ("timeout", "bad.mp4")
        assert time.monotonic() - started < 20
        assert process.pid is None
        assert process.call(divmod, 7, 2, name="x") == [3, 1], "another child takes its place"
    finally:
        process.close()


def test_a_call_that_crashes_is_a_decode_error(process):
    with pytest.raises(DecodeError, match="SIGABRT") as caught:
        process.call(os.abort, name="bad.mp4")
    assert (caught.value.code, caught.value.key) == ("crashed", "bad.mp4")
    with pytest.raises(DecodeError, match="exit code 3"):
        process.call(os._exit, 3, name="bad.mp4")
    assert process.call(divmod, 7, 2, name="x") == [3, 1]


def test_output_of_a_library_does_not_disturb_replies(process):
    process.call(os.write, 1, b"printed by a library\n", name="x")
    assert process.call(divmod, 7, 2, name="x") == [3, 1]


def test_a_child_is_kept_and_reused():
    with decode_process() as one:
        one.call(divmod, 1, 1, name="x")
        pid = one.pid
    with decode_process() as again:
        assert again.pid == pid
        with decode_process() as second:
            second.call(divmod, 1, 1, name="x")
            assert second.pid != pid


def test_a_child_does_not_outlive_its_parent():
    code = (
        "import os, signal; from kineray.video.process import DecodeProcess\n"
        "process = DecodeProcess(); process.call(divmod, 1, 1, name='x'); print(process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False)
    assert parent.returncode == -signal.SIGKILL
    child = int(parent.stdout)
    deadline = time.monotonic() + 10
    while _is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_starts_without_torch(process):
    assert process.call(_heavy_modules, name="x") == []


def _heavy_modules():
    import kineray.data.clips.preprocessing
    import kineray.storage  # noqa: F401

    return [name for name in ("torch", "pyarrow", "boto3", "ray", "mlflow") if name in sys.modules]
