"""The cache of fetched files: its size, what makes room, and many processes and threads at once."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kineray.errors import ConfigError, StorageError
from kineray.storage import cache as cache_module
from kineray.storage.cache import Cache, from_environment, name_of


def content(name, size):
    return (name_of(name).encode() * (size // 64 + 1))[:size]


def fetcher(name, size, log=None):
    def fetch(part):
        if log is not None:
            log.append(name)
        part.reserve(size)
        part.write(content(name, size))

    return fetch


def use(cache, name, size, log=None):
    with cache.hold(name_of(name), fetcher(name, size, log)) as path:
        assert path.read_bytes() == content(name, size)


def stored(cache, names):
    return [name for name in names if cache.has(name_of(name))]


def files(cache):
    return [path for path in cache.folder.rglob("*") if path.is_file() and path.name != "used"]


def counted(cache):
    return int((cache.folder / "used").read_text() or 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60), st.integers(1, 1500))
def test_recently_used_files_are_kept_within_the_limit(tmp_path_factory, uses, limit):
    cache = Cache(tmp_path_factory.mktemp("cache"), limit)
    sizes = {name: 37 * (name + 1) for name in range(10)}
    recent = []  # names, the last used at the end
    for name, forget in uses:
        if forget:
            cache.forget(name_of(name))
        else:
            was_there, log = cache.has(name_of(name)), []
            use(cache, name, sizes[name], log)
            assert log == ([] if was_there else [name])
        recent = [other for other in recent if other != name] + [name] * (not forget)
        there = stored(cache, recent)
        recent = [other for other in recent if other in there or sizes[other] > limit]
        assert there == [other for other in recent if sizes[other] <= limit]
        # Whoever was driven out had been used before all that stayed, and no more gave way than needed.
        total = sum(sizes[other] for other in there)
        assert total <= limit and total == sum(path.stat().st_size for path in files(cache))
        assert counted(cache) == total


def test_the_least_recently_used_files_are_evicted(tmp_path):
    cache = Cache(tmp_path, 1000)
    for name in "abcdefghij":
        use(cache, name, 100)
    for name in "ca":
        use(cache, name, 100)
    use(cache, "k", 100)
    # Down to nine tenths: one look at the folder makes room for many.
    assert stored(cache, "abcdefghijk") == list("acefghijk")


def test_a_file_in_use_is_never_removed(tmp_path):
    cache = Cache(tmp_path, 1000)
    with ExitStack() as held:
        paths = [held.enter_context(cache.hold(name_of(name), fetcher(name, 200))) for name in "abcde"]
        for name in "vwxyz":
            use(cache, name, 200)
        assert [path.read_bytes() for path in paths] == [content(name, 200) for name in "abcde"]
        assert stored(cache, "abcdevwxyz") == list("abcdez")
    use(cache, "f", 200)
    assert len(files(cache)) <= 5


def test_a_file_larger_than_the_cache_is_usable_and_evicts_nothing(tmp_path):
    cache, log = Cache(tmp_path, 1000), []
    for name in "abc":
        use(cache, name, 300)
    with cache.hold(name_of("large"), fetcher("large", 5000, log)) as path:
        use(cache, "large", 5000, log)
        assert path.read_bytes() == content("large", 5000)
    assert log == ["large"] and not path.exists()
    assert stored(cache, "abc") == list("abc") and counted(cache) == 900


def test_a_cache_of_size_zero_keeps_nothing(tmp_path):
    cache = Cache(tmp_path, 0)
    use(cache, "a", 100)
    cache.put(name_of("b"), b"b")
    assert files(cache) == []


def test_a_failed_fetch_leaves_nothing(tmp_path):
    cache = Cache(tmp_path, 1000)

    def fail(part):
        part.reserve(500)
        part.write(b"half")
        raise StorageError("broken", code="broken")

    for _ in range(3):
        with pytest.raises(StorageError, match="broken"), cache.hold(name_of("a"), fail):
            pass
        assert files(cache) == [] and counted(cache) == 0
    use(cache, "a", 500)


def test_put_keeps_an_existing_file(tmp_path):
    cache = Cache(tmp_path, 1000)
    cache.put(name_of("a"), content("a", 100))
    cache.put(name_of("a"), b"other")
    use(cache, "a", 100)
    cache.put(name_of("b"), bytes(2000))
    assert stored(cache, "ab") == ["a"]


def test_threads_fetch_a_file_once(tmp_path):
    cache, log, barrier = Cache(tmp_path, 10**6), [], threading.Barrier(8)

    def task(_):
        barrier.wait()
        for name in "abcd":
            use(cache, name, 50_000, log)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(task, range(8)))
    assert sorted(log) == list("abcd")


def test_a_file_that_is_removed_while_it_is_opened_is_fetched_again(tmp_path):
    cache, log = Cache(tmp_path, 1000), []
    use(cache, "a", 100, log)
    (path,) = files(cache)
    with path.open("r+b") as evicting:
        fcntl.flock(evicting, fcntl.LOCK_EX)
        user = threading.Thread(target=use, args=(cache, "a", 100, log))
        user.start()
        user.join(0.1)
        path.unlink()
    user.join(10)
    assert log == ["a", "a"]


WORK = """
import random, sys, time
from pathlib import Path
from kineray.storage.cache import Cache, name_of
folder, limit, log, seed = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
cache, chance = Cache(Path(folder), limit), random.Random(seed)

def fetch(name):
    def run(part):
        with open(log, "a") as file:
            file.write(f"{name}\\n")
        part.reserve(1000)
        for _ in range(10):
            part.write(name_of(name).encode()[:50] * 2)
            time.sleep(0.0002)
    return run

for _ in range(int(sys.argv[5])):
    name = chance.randrange(20)
    with cache.hold(name_of(name), fetch(name)) as path:
        assert path.read_bytes() == name_of(name).encode()[:50] * 20
"""


def workers(tmp_path, limit, count, uses):
    arguments = [[str(tmp_path / "cache"), str(limit), str(tmp_path / "log"), str(n)] for n in range(count)]
    return [subprocess.Popen([sys.executable, "-c", WORK, *words, str(uses)]) for words in arguments]


def test_processes_fetch_a_file_once(tmp_path):
    assert [worker.wait(60) for worker in workers(tmp_path, 10**6, 4, 100)] == [0] * 4
    names = (tmp_path / "log").read_text().split()
    assert len(names) == len(set(names)) == 20


def test_processes_that_evict_each_others_files_read_complete_ones(tmp_path):
    started = workers(tmp_path, 5000, 4, 200)
    started[0].send_signal(signal.SIGKILL)  # at any time
    assert [worker.wait(60) for worker in started[1:]] == [0] * 3
    started[0].wait()
    cache = Cache(tmp_path / "cache", 5000)
    use(cache, "last", 900)
    assert sum(path.stat().st_size for path in files(cache)) <= 5000


HALF = """
import sys, time
from pathlib import Path
from kineray.storage.cache import Cache, name_of

def fetch(part):
    part.reserve(1000)
    part.write(b"half" * 100)
    print("half", flush=True)
    time.sleep(600)

Cache(Path(sys.argv[1]), 2000).open(name_of("a"), fetch)
"""


def stuck_fetcher(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HALF, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"half\n"
    return process


def test_a_killed_fetcher_is_replaced_by_a_waiting_process(tmp_path):
    cache, log = Cache(tmp_path, 2000), []
    process = stuck_fetcher(tmp_path)
    waiter = threading.Thread(target=use, args=(cache, "a", 1000, log))
    waiter.start()
    waiter.join(0.2)
    assert waiter.is_alive() and not cache.has(name_of("a"))
    cache.put(name_of("a"), content("a", 1000))  # does not wait
    assert log == []
    process.kill()
    waiter.join(10)
    process.wait()
    assert log == ["a"]
    use(cache, "a", 1000, log)
    assert log == ["a"]


def test_the_rest_of_a_killed_fetch_is_evicted(tmp_path):
    process = stuck_fetcher(tmp_path)
    cache = Cache(tmp_path, 2000)
    process.kill()
    process.wait()
    for name in "bcd":
        use(cache, name, 600)
    assert stored(cache, "bcd") == list("bcd")
    assert len(files(cache)) == 3 and counted(cache) == 1800


FULL = """
import shutil, sys
from pathlib import Path
from kineray.storage.cache import Cache, name_of
from kineray.errors import StorageError
folder = Path(sys.argv[1])
cache = Cache(folder / "cache", 10**9)

def use(name, size):
    def fetch(part):
        part.reserve(size)
        part.write(bytes(size))
    with cache.hold(name_of(name), fetch) as path:
        assert path.stat().st_size == size

use("a", 300_000)
use("b", 300_000)
use("c", 600_000)  # a makes room: the disk is smaller than the limit
assert [cache.has(name_of(name)) for name in "abc"] == [False, True, True]
(folder / "other").write_bytes(bytes(shutil.disk_usage(folder).free))
use("d", 300_000)
assert [cache.has(name_of(name)) for name in "bcd"] == [False, True, True]
try:
    use("e", 2_000_000)
except StorageError as error:
    print(error)
assert [cache.has(name_of(name)) for name in "cd"] == [True, True]
use("e", 200_000)
print(sorted(path.parent.name for path in (folder / "cache").rglob("*") if path.is_file()))
"""


@pytest.mark.namespaces
def test_a_full_disk_is_one_error_and_the_cache_stays_usable(tmp_path):
    mounted = f"mount -t tmpfs -o size=1M tmpfs {tmp_path} && exec {sys.executable} -c '{FULL}' {tmp_path}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounted], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    message, left = done.stdout.splitlines()
    assert message.startswith(f"{tmp_path}/cache: No space left on device; free some space")
    assert "parts" not in left


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/cache: Not a directory; free .* set KINERAY_CACHE"):
        use(Cache(tmp_path / "file" / "cache", 100), "a", 10)
    with pytest.raises(StorageError) as caught:
        use(Cache(tmp_path / "file" / "cache"), "a", 10)
    assert caught.value.key == str(tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    ("text", "size"),
    [("50GB", 50 * 10**9), ("1.5 tb", 15 * 10**11), ("10MiB", 10 * 2**20), ("0B", 0), ("2KB", 2000)],
)
def test_sizes_have_decimal_and_binary_units(monkeypatch, text, size):
    monkeypatch.setenv("KINERAY_CACHE_SIZE", text)
    assert from_environment().capacity() == size


@pytest.mark.parametrize("text", ["50", "GB", "-1GB", "50 gigabytes", "1,5GB", "50G B", "nan"])
def test_a_malformed_size_is_refused(monkeypatch, text):
    monkeypatch.setenv("KINERAY_CACHE_SIZE", text)
    with pytest.raises(
        ConfigError, match=f"^KINERAY_CACHE_SIZE={text}: not a size; write it like 50GB"
    ) as caught:
        from_environment()
    assert (caught.value.code, caught.value.key) == ("bad_value", "KINERAY_CACHE_SIZE")


def test_the_default_is_half_of_the_free_space_at_most(tmp_path, monkeypatch):
    monkeypatch.setenv("KINERAY_CACHE", str(tmp_path))
    monkeypatch.delenv("KINERAY_CACHE_SIZE", raising=False)
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    assert from_environment() == Cache(Path(tmp_path))
    assert 0.4 * min(free, 2e11) < from_environment().capacity() <= 100e9
    monkeypatch.setattr(cache_module, "DEFAULT_BYTES", 1000)
    assert from_environment().capacity() == 1000
