"""Local folders and a real S3 server (moto's, on a free port of the loopback) behave alike."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kineray import storage
from kineray.cli import run
from kineray.data import Manifest, Sample, load_manifest, save_manifest
from kineray.errors import StorageError


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path):
    return request.getfixturevalue("s3") if request.param == "s3" else str(tmp_path / "root")


def write_folder(path, **files):
    for name, text in files.items():
        target = path / name.replace("__", "/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return path


def refusal(call, *args, **settings):
    with pytest.raises(StorageError) as caught:
        call(*args, **settings)
    assert "\n" not in str(caught.value)
    return caught.value.code, caught.value.key


def test_bytes_are_read_as_written(root):
    uri = storage.join(root, "a", "b.bin")
    assert not storage.exists(uri)
    for data in (b"first", b"", b"\x00" * 100_000):
        storage.write_bytes(uri, data)
        assert storage.read_bytes(uri) == data
    assert storage.exists(uri) and storage.exists(storage.join(root, "a"))
    assert not storage.exists(storage.join(root, "a", "b"))  # a prefix of a name is not a folder


def test_names_and_files_are_listed(root):
    for name in ("b.txt", "sub/c.txt", "sub/deep/d.txt", "subway.txt"):
        storage.write_bytes(storage.join(root, name), b"x")
    assert storage.list_names(root) == ["b.txt", "sub", "subway.txt"]
    assert storage.list_names(storage.join(root, "sub")) == ["c.txt", "deep"]
    assert storage.list_names(storage.join(root, "nowhere")) == []
    assert storage.list_files(root) == ["b.txt", "sub/c.txt", "sub/deep/d.txt", "subway.txt"]
    assert storage.list_files(storage.join(root, "sub")) == ["c.txt", "deep/d.txt"]
    assert storage.list_files(storage.join(root, "nowhere")) == []


def test_links_to_folders_are_followed_once(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.mp4").touch()
    (tmp_path / "a" / "b" / "up").symlink_to("../..")
    (tmp_path / "a" / "here").symlink_to(".")
    (tmp_path / "other").symlink_to("a/b")
    assert storage.list_files(tmp_path) == ["a/b/x.mp4", "other/x.mp4"]


def test_sizes_of_files_are_known_without_reading_them(root):
    uris = {name: storage.join(root, name) for name in ("a/1.mp4", "a/2.mp4", "b.mp4", "ab.mp4", "gone.mp4")}
    for length, name in enumerate(["a/1.mp4", "a/2.mp4", "b.mp4", "ab.mp4"]):
        storage.write_bytes(uris[name], b"x" * length)
    sizes = storage.file_sizes([uris["a/1.mp4"], uris["a/2.mp4"], uris["b.mp4"], uris["gone.mp4"]])
    assert sizes == {uris["a/1.mp4"]: 0, uris["a/2.mp4"]: 1, uris["b.mp4"]: 2}
    assert storage.file_sizes([]) == {}


def test_a_folder_is_put_replaced_and_fetched(s3, tmp_path):
    uri = storage.join(s3, "runs", "checkpoint")
    first = write_folder(tmp_path / "first", weights="1", **{"state.json": "{}", "old__file": "x"})
    second = write_folder(tmp_path / "second", weights="2", **{"state.json": "{2}"})
    storage.put_folder(first, uri)
    storage.put_folder(second, uri)
    assert storage.list_files(uri) == ["state.json", "weights"]
    for _ in range(2):
        storage.get_folder(uri, tmp_path / "copy" / "here")
        assert storage.list_files(tmp_path / "copy" / "here") == ["state.json", "weights"]
        assert (tmp_path / "copy" / "here" / "weights").read_text() == "2"


def test_a_folder_is_deleted_and_its_neighbour_is_not(root):
    uri = storage.join(root, "runs", "checkpoint")
    for name in ("checkpoint/state.json", "checkpoint/weights", "checkpoint2"):
        storage.write_bytes(storage.join(root, "runs", name), b"x")
    for _ in range(2):
        storage.delete_folder(uri)
        assert not storage.exists(uri)
    assert storage.list_names(storage.join(root, "runs")) == ["checkpoint2"]


def test_the_committing_file_is_uploaded_last(s3, tmp_path):
    uri = storage.join(s3, "checkpoint")
    folder = write_folder(tmp_path / "folder", **{"state.json": "{}", "a": "1", "z": "2"})
    storage.put_folder(folder, uri)
    # Break the second of three uploads: what is left must not look complete.
    (folder / "z").unlink()
    (folder / "z").symlink_to(tmp_path / "nowhere")
    assert refusal(storage.put_folder, folder, uri) == ("not_found", str(folder / "z"))
    assert storage.list_files(uri) == ["a", "z"]  # the old z


def test_one_of_many_that_create_a_folder_at_once_gets_it(root):
    for attempt in range(3):
        uri = storage.join(root, "runs", f"run-{attempt}")
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda n: storage.create_folder(uri, "mine", b"%d" % n), range(8)))  # noqa: B023
        assert got.count(True) == 1
        assert storage.read_bytes(storage.join(uri, "mine")) == b"%d" % got.index(True)
        assert storage.list_files(uri) == ["mine"]
    storage.write_bytes(storage.join(root, "runs", "other", "file"), b"x")
    assert not storage.create_folder(storage.join(root, "runs", "other"), "mine", b"")
    assert storage.list_files(storage.join(root, "runs", "other")) == ["file"]


def test_a_folder_whose_file_does_not_fit_is_not_created(small_disk):
    folder = small_disk / "run"
    assert refusal(storage.create_folder, folder, "mine", bytes(5 * 2**20))[0] == "disk_full"
    assert not folder.exists()


def test_an_error_names_the_file(root):
    missing = storage.join(root, "nowhere", "file")
    assert refusal(storage.read_bytes, missing) == ("not_found", missing)


def test_only_folders_in_a_bucket_are_put_and_fetched(tmp_path):
    assert refusal(storage.put_folder, tmp_path, "runs/a") == ("bad_uri", "runs/a")
    assert refusal(storage.get_folder, "a", tmp_path / "b") == ("bad_uri", "a")


def test_a_missing_folder_leaves_no_copy(s3, tmp_path):
    missing = f"{s3}/nowhere/file"
    assert refusal(storage.get_folder, missing, tmp_path / "x") == ("not_found", missing)
    assert not (tmp_path / "x").exists()


def test_s3_errors_name_bucket_and_key(s3, monkeypatch):
    with pytest.raises(StorageError, match=r"^s3://no-such-bucket/key: no such bucket; create it or"):
        storage.write_bytes("s3://no-such-bucket/key", b"")
    folder = "s3://no-such-bucket/folder"
    assert refusal(storage.list_files, folder) == ("no_bucket", folder)
    assert refusal(storage.read_bytes, "s3:///key") == ("bad_uri", "s3:///key")
    assert refusal(storage.prefetch, f"{s3}/video.mp4") == ("not_found", f"{s3}/video.mp4")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    assert refusal(storage.read_bytes, f"{s3}/key") == ("access_denied", f"{s3}/key")


@pytest.mark.parametrize("url", ["foo", "http://[::1", "http://localhost:99999"])
def test_an_endpoint_that_is_no_url_is_refused(s3, monkeypatch, url):
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    for call in (storage.read_bytes, storage.exists, storage.list_files, storage.delete_file):
        assert refusal(call, f"{s3}/key")[0] == "bad_endpoint"


@pytest.mark.parametrize("uri", ["gs://bucket/key", "http://host/file", "hdfs://a", "S3://bucket", "s3://"])
def test_a_uri_that_is_neither_local_nor_s3_is_refused(uri, tmp_path):
    calls = [
        storage.is_remote,
        lambda uri: storage.join(uri, "a"),
        storage.absolute,
        storage.exists,
        storage.list_names,
        storage.list_files,
        storage.read_bytes,
        lambda uri: storage.write_bytes(uri, b""),
        lambda uri: storage.put_folder(tmp_path, uri),
        lambda uri: storage.get_folder(uri, tmp_path / "copy"),
        storage.delete_folder,
        storage.delete_file,
        lambda uri: storage.local_file(uri).__enter__(),
        lambda uri: storage.video_source(uri).__enter__(),
        storage.prefetch,
        load_manifest,
    ]
    for call in calls:
        code, key = refusal(call, uri)
        assert code == "bad_uri" and key.startswith(uri)
    assert list(Path.cwd().glob("gs:*")) == []


def test_doctor_leaves_nothing_in_the_bucket_and_shows_no_password(s3, monkeypatch, capsys, endpoint):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.replace("//", "//user:secret@"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    storage.write_bytes(f"{s3}/kept", b"x")
    with pytest.raises(SystemExit):
        run(["doctor", "--storage", s3])
    out, err = capsys.readouterr()
    assert f"{s3} writable" in out
    assert "secret" not in out + err
    assert storage.list_files(s3) == ["kept"]
    with pytest.raises(SystemExit):
        run(["doctor", "--storage", "gs://bucket"])
    assert "gs:// is not supported" in capsys.readouterr().out


def test_local_paths_need_no_s3(tmp_path):
    assert not storage.is_remote(tmp_path) and storage.is_remote("s3://bucket/key")
    assert storage.join("s3://bucket/", "/a/", "b") == "s3://bucket/a/b"
    assert storage.join("runs", "a") == str(Path("runs/a"))


def test_a_manifest_can_be_on_s3(s3):
    sample = Sample("a", f"{s3}/set/videos/a.mp4", 0.0, None, {"action": 0}, "a", "train")
    manifest = Manifest("set", (sample,), {"action": ("x",)})
    save_manifest(manifest, f"{s3}/set/manifest.parquet")
    assert load_manifest(f"{s3}/set") == manifest
    assert b"s3://" not in storage.read_bytes(f"{s3}/set/manifest.parquet")  # stored relative to the folder


def test_a_file_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "below"
    assert refusal(storage.write_bytes, below, b"x") == ("io_error", str(below))
