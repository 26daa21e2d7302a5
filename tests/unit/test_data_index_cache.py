"""Packet indexes beside a manifest: found by URI, wherever the folder lies; a cache that may be absent."""

import pytest

from kineray import storage
from kineray.data.manifest import index_cache
from kineray.data.manifest.index_cache import IndexCache

FILES = {f"{name}.mp4": name.encode() * 3 for name in ("b", "a", "ä", "a b", "z/9")}


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path):
    return str(tmp_path / "set") if request.param == "local" else f"{request.getfixturevalue('s3')}/set"


def test_indexes_are_found_by_the_uri_of_the_video(folder):
    uris = {storage.join(folder, name): index for name, index in FILES.items()} | {"/elsewhere/x.mp4": b"x"}
    written = index_cache.write(storage.join(folder, "mine.parquet"), uris)
    assert written == storage.join(folder, "mine.index.arrow")
    indexes = IndexCache.beside(storage.join(folder, "mine.parquet"))
    assert len(indexes) == len(uris)
    assert {uri: indexes.get(uri) for uri in uris} == uris
    for unknown in ("", storage.join(folder, "c.mp4"), "/zz.mp4"):
        assert indexes.get(unknown) is None


def test_the_folder_of_a_manifest_may_be_given(tmp_path):
    index_cache.write(str(tmp_path), {str(tmp_path / "a.mp4"): b"a"})
    assert IndexCache.beside(str(tmp_path / "manifest.parquet")).get(str(tmp_path / "a.mp4")) == b"a"


def test_the_folder_may_be_moved(tmp_path):
    (tmp_path / "before").mkdir()
    index_cache.write(str(tmp_path / "before"), {str(tmp_path / "before/a.mp4"): b"a"})
    (tmp_path / "before").rename(tmp_path / "after")
    assert IndexCache.beside(str(tmp_path / "after")).get(str(tmp_path / "after/a.mp4")) == b"a"


def test_without_a_usable_file_there_are_no_indexes(tmp_path, monkeypatch):
    manifest = str(tmp_path / "m.parquet")
    assert IndexCache.beside(manifest) is None
    (tmp_path / "m.index.arrow").write_bytes(b"something else")
    assert IndexCache.beside(manifest) is None
    (tmp_path / "m.index.arrow").write_bytes(b"")
    assert IndexCache.beside(manifest) is None
    other = index_cache._SCHEMA.with_metadata({"version": "0"})
    with monkeypatch.context() as patch:
        patch.setattr(index_cache, "_SCHEMA", other)  # what another version of kineray wrote
        index_cache.write(manifest, {"/a.mp4": b"a"})
        assert IndexCache.beside(manifest).get("/a.mp4") == b"a"
    assert IndexCache.beside(manifest) is None
    index_cache.write(manifest, {})
    assert len(IndexCache.beside(manifest)) == 0
