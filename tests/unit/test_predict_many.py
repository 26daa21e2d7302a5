"""Predictions for files, folders, manifests and arrays: each like that of one file; none lost by another."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from kineray import predict, predict_many, read_clip
from kineray.data import load_manifest, synthesize
from kineray.errors import ConfigError, StorageError
from kineray.evaluation import about
from kineray.training import load_checkpoint
from kineray.video import FrameArray, open_video, probe
from small_checkpoint import CLASSES, save_small_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
HEADS = {"action": CLASSES, "axis": ("horizontal", "vertical")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four videos in ``val``, a hidden one, a text, and a file that is no video in ``bad``."""
    root = tmp_path_factory.mktemp("videos")
    synthesize(root, train=0, val=4, size=48)
    first = next((root / "val").rglob("*.mp4"))
    shutil.copy(first, root / "val/._hidden.mp4")
    (root / "val/notes.txt").write_text("no video")
    (root / "bad").mkdir()
    (root / "bad/broken.mp4").write_bytes(b"no video")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load_checkpoint(save_small_checkpoint(tmp_path_factory.mktemp("run"), heads=HEADS))


def as_plain(predictions):
    return {head: {entry["label"]: entry["score"] for entry in best} for head, best in predictions.items()}


def test_each_video_of_a_folder_is_predicted_as_it_is_alone(checkpoint, folder):
    made = predict_many(checkpoint, folder / "val", views=2)
    videos = sorted(str(path) for path in (folder / "val").rglob("*/*.mp4"))
    assert [video.uri for video in made.videos] == videos and made.file is None
    for video in made.videos:
        alone = as_plain(predict(checkpoint, video.uri, views=2).predictions)
        found = as_plain(video.predictions)
        assert all(found[head] == pytest.approx(alone[head], abs=1e-5) for head in HEADS)
    rows = made.table.to_pylist()
    assert [row["axis/predicted"] for row in rows] == [v.predictions["axis"][0]["label"] for v in made.videos]
    assert about(made.table)["classes"] == {head: list(names) for head, names in HEADS.items()}


def test_a_file_that_fails_is_named_and_loses_no_other(checkpoint, folder, tmp_path):
    good = str(next((folder / "val").rglob("*/*.mp4")))
    names = [good, str(folder / "bad"), str(tmp_path / "nowhere.mp4"), good]
    made = predict_many(checkpoint, names, out=str(tmp_path / "out.parquet"))
    assert [video.uri for video in made.videos] == [good, f"{folder}/bad/broken.mp4", names[2]]
    assert [(failure.uri, failure.code) for failure in made.failures] == [
        (f"{folder}/bad/broken.mp4", "not_a_video"),
        (names[2], "not_found"),
    ]
    assert as_plain(made.videos[0].predictions)["axis"] and made.videos[1].predictions == {}
    table = pq.read_table(tmp_path / "out.parquet")
    assert [row["action/predicted"] is None for row in table.to_pylist()] == [False, True, True]
    again = predict_many(checkpoint, names, out=str(tmp_path / "out.parquet"))
    assert again.table == made.table
    with pytest.raises(StorageError) as error:
        predict_many(checkpoint, good, out=str(tmp_path / "out.parquet"))
    assert error.value.code == "file_taken"


def test_a_manifest_gives_a_file_with_its_ids(checkpoint, folder, tmp_path):
    made = predict_many(checkpoint, f"{folder}/manifest.parquet", split="val", storage=str(tmp_path))
    samples = load_manifest(folder).split("val")
    assert [video.id for video in made.videos] == [sample.id for sample in samples]
    assert Path(made.file).parent == tmp_path and pq.read_table(made.file).equals(made.table)
    alone = predict(checkpoint, samples[0].uri, top_k=1).predictions
    assert as_plain(alone)["action"].keys() == {made.table["action/predicted"][0].as_py()}
    assert "action/label" not in made.table.column_names


@pytest.mark.parametrize(
    ("videos", "options", "code", "key"),
    [
        (["{folder}/manifest.parquet", "a.mp4"], {}, "several_sources", "{folder}/manifest.parquet"),
        ([], {}, "no_videos", "videos"),
        ("{folder}", {"split": "val"}, "no_manifest", "split"),
        ("{folder}", {"crops": 2}, "unknown_value", "crops"),
    ],
)
def test_what_cannot_be_predicted_is_refused(checkpoint, folder, videos, options, code, key):
    names = videos if isinstance(videos, list) else [videos]
    with pytest.raises(ConfigError) as error:
        predict_many(checkpoint, [name.format(folder=folder) for name in names], **options)
    assert (error.value.code, error.value.key) == (code, key.format(folder=folder))


def test_frames_in_an_array_are_predicted_like_the_same_frames_in_files(checkpoint, folder, tmp_path):
    import av

    video = next((folder / "val").rglob("*/*.mp4"))
    info = probe(video)
    frames = read_clip(video, np.arange(info.frames) / info.fps)
    for number, frame in enumerate(frames, start=1):
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        codec = av.CodecContext.create("png", "w")
        codec.width, codec.height, codec.pix_fmt, codec.time_base = 48, 48, "rgb24", 1
        packets = [*codec.encode(picture), *codec.encode(None)]
        (tmp_path / f"{number:04d}.png").write_bytes(b"".join(map(bytes, packets)))
    of_files = predict(checkpoint, f"{tmp_path}/%04d.png#fps={info.fps}", views=3)
    of_array = predict(checkpoint, frames, fps=info.fps, views=3)
    assert of_array.predictions == of_files.predictions
    assert of_array.timestamps_s == of_files.timestamps_s
    assert of_array.timestamps_s == predict(checkpoint, video, views=3).timestamps_s


def test_a_frame_of_an_array_is_shown_from_its_time_to_the_next():
    frames = np.stack([np.full((16, 16, 3), value, np.uint8) for value in (10, 20, 30)])
    with open_video(FrameArray(frames[:, ::-1], fps=10)) as reader:
        shown = reader.read([-1, 0, 0.0999, 0.1, 0.2, 0.25, 9])[:, 0, 0, 0]
        assert (reader.info.duration_s, reader.info.frames) == (pytest.approx(0.3), 3)
    assert shown.tolist() == [10, 10, 10, 20, 30, 30, 30]


@pytest.mark.parametrize(
    ("frames", "fps", "code", "key"),
    [
        (np.zeros((4, 48, 48, 3), np.uint8), None, "not_set", "fps"),
        (np.zeros((4, 48, 48, 3), np.uint8), 0, "out_of_range", "fps"),
        (np.zeros((4, 48, 48, 3), np.uint8), float("nan"), "out_of_range", "fps"),
        (np.zeros((4, 48, 48, 3), np.float32), 25, "wrong_shape", "video"),
        (np.zeros((48, 48, 3), np.uint8), 25, "wrong_shape", "video"),
        (np.zeros((4, 3, 48, 48), np.uint8), 25, "wrong_shape", "video"),
        (np.zeros((0, 48, 48, 3), np.uint8), 25, "wrong_shape", "video"),
        ("a.mp4", 25, "not_an_array", "fps"),
    ],
)
def test_an_array_of_another_kind_is_refused(checkpoint, frames, fps, code, key):
    with pytest.raises(ConfigError) as error:
        predict(checkpoint, frames, fps=fps)
    assert (error.value.code, error.value.key) == (code, key)


def test_the_command_names_what_fails_prints_the_rest_and_exits_with_2(checkpoint, folder, kineray):
    code, out, err = kineray("predict", checkpoint.uri, str(folder / "val"), str(folder / "bad"))
    assert code == 2
    header, *rows = out.splitlines()
    assert header.split() == ["video", "action", "axis"] and len(rows) == 5
    assert sum("drift_" in row and "horizontal" in row for row in rows) == 4
    assert err.count(f"{folder}/bad/broken.mp4") == 1 and "1 of 5" in err.splitlines()[-1]
    code, out, _ = kineray("predict", checkpoint.uri, str(folder / "val"), "--top-k", "1", "--json")
    found = json.loads(out)
    assert (code, found["failed"], len(found["videos"])) == (0, 0, 4)
    assert all(len(video["predictions"]["action"]) == 1 for video in found["videos"])
    made = predict_many(checkpoint, folder / "val", top_k=1)
    assert [video["predictions"] for video in found["videos"]] == [
        dataclasses.asdict(video)["predictions"] for video in made.videos
    ]
