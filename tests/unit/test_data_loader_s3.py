"""Batches of videos in a bucket whose server is killed, drops connections and slows down during an epoch."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kineray import storage
from kineray.config import DataConfig
from kineray.data import (
    BatchSpec,
    ClipShape,
    Preprocessing,
    eval_clips,
    load_batches,
    load_manifest,
    save_manifest,
    synthesize,
)

N, BATCH = 24, 8
MEMORY = 12 * 2 * 24 * 24 * 3  # so that little is fetched before the trouble starts


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    return load_manifest(synthesize(folder, train=N, val=0, size=32, seconds=0.5, fps=10))


@pytest.fixture
def remote(local, s3, s3_server):
    """The same set in a bucket, with an empty cache."""
    samples = []
    for sample in local:
        uri = f"{s3}/set/{sample.id}.mp4"
        storage.write_bytes(uri, Path(sample.uri).read_bytes())
        samples.append(replace(sample, uri=uri))
    save_manifest(replace(local, samples=tuple(samples)), f"{s3}/set/manifest.parquet")
    return load_manifest(f"{s3}/set/manifest.parquet")


@pytest.fixture(scope="module")
def preprocessing(local):
    data = DataConfig(
        frames=2, stride=1, fps=10, short_side=(24, 32), crop=24, eval_short_side=24, eval_crop=24
    )
    return Preprocessing.from_config(data, local.vocabularies)


def epoch(manifest, preprocessing):
    clip = ClipShape.of(preprocessing)
    starts = range(0, N // BATCH * BATCH, BATCH)
    specs = [BatchSpec(step, 0, range(start, start + BATCH), 2, clip) for step, start in enumerate(starts)]
    return load_batches(manifest, preprocessing, specs, seed=1, decoders=2, max_memory=MEMORY)


def ids_and_clips(parts):
    clips = torch.cat([part.clips_bthwc for part in parts])
    return [name for part in parts for name in part.ids], clips


@pytest.mark.parametrize(
    "trouble", ["killed", *(pytest.param(name, marks=pytest.mark.slow) for name in ("errors", "cut", "slow"))]
)
def test_an_epoch_goes_on_and_no_clip_is_lost_or_doubled(local, remote, preprocessing, s3_server, trouble):
    wanted_ids, wanted_clips = ids_and_clips(list(epoch(local, preprocessing)))
    stream = epoch(remote, preprocessing)
    parts = [next(stream)]
    match trouble:
        case "killed":
            s3_server.kill()
            threading.Timer(1.5, s3_server.restart).start()
        case "errors":
            s3_server.fail(6, 503)
            s3_server.fail(6, 500, "InternalError")
            s3_server.reset(6)
        case "cut":
            s3_server.cut(8, after=300)
        case "slow":
            s3_server.pause_s = 0.2
    parts += stream
    ids, clips = ids_and_clips(parts)
    assert ids == wanted_ids and len(set(ids)) == N
    assert torch.equal(clips, wanted_clips)
    assert not [failure for part in parts for failure in part.failures]


def test_a_missing_object_is_a_bad_clip(remote, preprocessing):
    gone = remote[3].uri
    storage.delete_file(gone)
    results = list(eval_clips(remote, preprocessing, views=1, crops=1, indices=[2, 3], decoders=1))
    assert results[0][3] is None
    failure = results[1][3]
    assert failure.code == "storage" and gone in failure.message and "no such object" in failure.message
