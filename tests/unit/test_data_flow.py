"""Optical flow on disk: the motion in the videos, in the layout and encoding of EPIC-KITCHENS."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from annotation_files import refused
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from video_files import write_video

from kineray.cli.app import cli
from kineray.config import DataConfig, apply_overrides
from kineray.data import Manifest, Preprocessing, Sample, load_manifest, sample_rng, save_manifest, synthesize
from kineray.data.derive.flow import Settings, compute_flow, farneback, plan, to_grey
from kineray.data.derive.synth import DRIFTS, drifting_texture
from kineray.errors import ConfigError, StorageError
from kineray.training import CheckpointStore, train
from kineray.video import open_video, probe

pytest.importorskip("cv2")

FPS, SPEED, BOUND = 10, 2.0, 8.0


@pytest.fixture(scope="module")
def rgb(tmp_path_factory):
    """8 videos of 8 frames that drift 2 pixels a frame, 2 of each direction."""
    folder = tmp_path_factory.mktemp("rgb")
    return synthesize(folder, train=4, val=4, size=64, seconds=0.8, fps=FPS, speed=SPEED)


@pytest.fixture(scope="module")
def flow(rgb, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow")
    return compute_flow(load_manifest(rgb), str(rgb), folder, Settings(bound=BOUND), decoders=2), folder


def pixels(grey, bound=BOUND):
    """The decoding that EPIC-KITCHENS documents."""
    return grey / 255 * 2 * bound - bound


# -- the motion -------------------------------------------------------------------------------------


@pytest.mark.parametrize("velocity", [(2.0, 0.0), (-1.5, 0.5), (0.0, 3.0), (-3.0, -2.0), (0.25, -0.25)])
def test_flow_is_the_motion_of_a_texture(velocity):
    """u to the right, v down, in pixels; at the borders new texture appears."""
    frames = drifting_texture(np.random.default_rng(0), size=96, frames=4, velocity=velocity, smoothness=3.0)
    flow = farneback(frames)
    assert flow.shape == (3, 96, 96, 2) and flow.dtype == np.float32
    inside = flow[:, 16:-16, 16:-16].reshape(-1, 2)
    np.testing.assert_allclose(np.median(inside, axis=0), velocity, atol=0.1)
    assert np.abs(inside - velocity).mean() < 0.2


@given(st.floats(-30, 30), st.floats(0.5, 30))
def test_grey_values_are_those_of_epic_kitchens(motion, bound):
    grey = int(to_grey(np.array(motion), bound))
    assert abs(pixels(grey, bound) - np.clip(motion, -bound, bound)) <= bound / 255 + 1e-9
    assert grey + int(to_grey(np.array(-motion), bound)) in (254, 255, 256)  # rest is 127.5
    assert [int(to_grey(np.array(x), bound)) for x in (-bound, bound)] == [0, 255]


def test_the_flow_of_videos_is_their_motion(rgb, flow):
    flows, _ = flow
    before = load_manifest(rgb)
    for sample, source in zip(flows.manifest, before, strict=True):
        info = probe(sample.flow)
        assert sample == replace(source, flow=sample.flow)
        assert (info.width, info.height, info.channels, info.fps, info.frames) == (64, 64, 2, FPS, 7)
        with open_video(sample.flow) as video:
            grey = video.read((np.arange(7) + 0.5) / FPS)
        direction = DRIFTS[before.vocabularies["action"][source.labels["action"]]]
        found = np.median(pixels(grey)[:, 16:-16, 16:-16].reshape(-1, 2), axis=0)
        np.testing.assert_allclose(found, np.array(direction) * SPEED, atol=0.15)


def test_a_model_sees_the_motion_mirrored(rgb, flow):
    """Training mirrors half of the clips: what drifts to the right then drifts to the left."""
    flows, _ = flow
    data = DataConfig(
        frames=4, stride=1, fps=FPS, short_side=(64, 64), crop=64, eval_short_side=64, eval_crop=64,
        modality="flow", mean=(0.5, 0.5), std=(0.226, 0.226),
    )  # fmt: skip
    preprocessing = Preprocessing.from_config(data, flows.manifest.vocabularies)
    right = next(s for s in flows.manifest if "drift_right" in s.id)
    seen = set()
    for seed in range(8):
        clip = preprocessing.train_clips(right.flow, right, [sample_rng(seed, 0, right.id)])[0]
        u, v = np.median(pixels(clip)[:, 16:-16, 16:-16].reshape(-1, 2), axis=0)
        assert abs(abs(u) - SPEED) < 0.15 and abs(v) < 0.15
        seen.add(u > 0)
    assert seen == {False, True}


# -- files ------------------------------------------------------------------------------------------


def test_the_layout_and_the_manifest(rgb, flow):
    flows, folder = flow
    before = load_manifest(rgb)
    assert flows.failures == {}
    assert [replace(sample, flow="") for sample in flows.manifest] == list(before)
    first = before[0]
    home = folder / first.id
    assert sorted(path.name for path in home.iterdir()) == ["flow.json", "u", "v"]
    for name in "uv":
        assert sorted(path.name for path in (home / name).iterdir()) == [
            f"frame_{number:010d}.jpg" for number in range(1, 8)
        ]
    assert json.loads((home / "flow.json").read_text()) == {
        "fps": FPS, "bound": BOUND, "short_side": 256, "frames": 7,
    }  # fmt: skip
    assert flows.manifest[0].flow == f"{home}/{{u,v}}/frame_%010d.jpg#fps=10&bound=8"
    assert not list(folder.rglob("*.part"))


@pytest.mark.slow
def test_videos_are_made_smaller_but_not_larger(tmp_path):
    path = write_video(tmp_path / "wide.mp4", frames=4, width=128, height=64, fps=FPS)
    manifest = one_video(path)
    small = compute_flow(manifest, str(tmp_path / "m.parquet"), tmp_path / "a", Settings(short_side=32))
    large = compute_flow(manifest, str(tmp_path / "m.parquet"), tmp_path / "b", Settings(short_side=500))
    sizes = [(probe(m[0].flow).width, probe(m[0].flow).height) for m in (small.manifest, large.manifest)]
    assert sizes == [(64, 32), (128, 64)]


def one_video(path, **changes):
    sample = Sample("a", str(path), 0.2, 0.6, {"action": 0}, "group", "train", **changes)
    return Manifest("one", (sample,), {"action": ("only",)})


def test_flow_at_another_frame_rate(tmp_path):
    """20 frames at 10 per second, read at 5: 10 frames, 9 motions; samples keep their times."""
    manifest = one_video(write_video(tmp_path / "a.mp4", frames=20, fps=10))
    flows = compute_flow(manifest, str(tmp_path / "m.parquet"), tmp_path / "out", Settings(fps=5.0))
    assert probe(flows.manifest[0].flow).frames == 9
    assert (flows.manifest[0].start_s, flows.manifest[0].end_s) == (0.2, 0.6)
    assert flows.manifest[0].flow.endswith("#fps=5&bound=20")


@pytest.mark.slow
def test_a_long_video_is_computed_in_pieces(tmp_path, monkeypatch):
    """With the same images as in one piece."""
    path = write_video(tmp_path / "a.mp4", frames=20, fps=25)
    folders = {}
    for piece in (500, 8):
        monkeypatch.setattr("kineray.data.derive.flow._PIECE_PIXELS", piece * 64 * 48)
        done = []
        flows = compute_flow(
            one_video(path), str(tmp_path / "m.parquet"), tmp_path / str(piece), Settings(),
            progress=lambda *state, done=done: done.append(state),
        )  # fmt: skip
        assert done[-1] == (19, 19, 0) and len(done) == -(-19 // piece)
        folders[piece] = Path(flows.manifest[0].flow.partition("/{u,v}")[0])
    for name in "uv":
        for number in range(1, 20):
            files = [folder / name / f"frame_{number:010d}.jpg" for folder in folders.values()]
            assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_a_video_that_is_decoded_from_its_start(tmp_path):
    """AVI stores no presentation times."""
    options = {"width": 96, "height": 64, "frames": 40, "fps": 25}
    grey = []
    for name in ("a.avi", "a.mp4"):
        path = write_video(tmp_path / name, codec="mpeg4", bframes=0, **options)
        flows = compute_flow(one_video(path), str(tmp_path / "m"), tmp_path / name[2:], Settings())
        with open_video(flows.manifest[0].flow) as video:
            assert video.info.frames == 39
            grey.append(video.read((np.arange(39) + 0.5) / 25).astype(int))
    np.testing.assert_array_equal(*grey)


@pytest.mark.slow
def test_a_video_of_one_frame_has_one_frame_of_flow_without_motion(tmp_path):
    flows = compute_flow(
        one_video(write_video(tmp_path / "a.mp4", frames=1)),
        str(tmp_path / "m"),
        tmp_path / "out",
        Settings(),
    )
    with open_video(flows.manifest[0].flow) as video:
        assert np.abs(pixels(video.read([0.0]), bound=20)).max() < 0.3  # two grey steps


def test_a_second_run_keeps_what_is_there(rgb, flow, tmp_path):
    """Only what is missing or unfinished is computed; images of an unfinished folder are not trusted."""
    _, folder = flow
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    manifest = load_manifest(rgb)
    finished, lost, half = (copy / manifest[index].id for index in (0, 1, 2))
    marker = finished / "u" / "frame_0000000001.jpg"
    marker.write_bytes(b"kept")
    shutil.rmtree(lost)
    half.rename(half.with_name(f"{half.name}.part"))
    stray = half.with_name(f"{half.name}.part") / "u" / "frame_0000000099.jpg"
    stray.write_bytes(b"stray")
    done = []
    flows = compute_flow(
        manifest, str(rgb), copy, Settings(bound=BOUND), progress=lambda *state: done.append(state)
    )
    assert done[-1] == (14, 14, 0)  # two videos of 7 motions
    assert marker.read_bytes() == b"kept"
    assert len(list((lost / "v").iterdir())) == len(list((half / "u").iterdir())) == 7
    assert not list(copy.rglob("*.part")) and not list(copy.rglob("*99.jpg"))
    assert [sample.uri for sample in flows.manifest] == [sample.uri for sample in manifest]
    with refused("other_settings", copy / manifest[0].id) as error:
        compute_flow(manifest, str(rgb), copy, Settings(bound=4.0))
    assert "bound 8, not 4" in error.value.problem


def test_bad_videos_are_named_and_the_rest_is_done(rgb, tmp_path):
    before = load_manifest(rgb)
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video " * 100)
    uris = {0: str(tmp_path / "gone.mp4"), 1: str(broken)}
    samples = [replace(sample, uri=uris.get(index, sample.uri)) for index, sample in enumerate(before)]
    manifest = Manifest(before.name, samples, before.vocabularies)
    flows = compute_flow(manifest, str(rgb), tmp_path / "out", Settings())
    assert {uri: error.code for uri, error in flows.failures.items()} == {
        str(tmp_path / "gone.mp4"): "not_found", str(broken): "not_a_video",
    }  # fmt: skip
    assert flows.manifest.missing == {"train": (before[0].id, before[1].id)}
    assert [sample.id for sample in flows.manifest] == [sample.id for sample in before][2:]
    assert not list((tmp_path / "out").rglob("*.part"))
    with refused("nothing_decodable", "one") as error:
        compute_flow(one_video(tmp_path / "gone.mp4"), str(rgb), tmp_path / "none", Settings())
    assert str(tmp_path / "gone.mp4") in error.value.problem


def test_videos_of_the_same_name_have_different_folders(tmp_path):
    uris = ["/d/x/a.mp4", "/d/y/a.mp4", "/d/y/a.avi", "/d/y/{u,v}.mp4", "/e/%03d.mp4"]
    samples = [Sample(uri, uri, 0.0, None, {}, uri, "train") for uri in uris]
    jobs = plan(Manifest("m", samples, {}), "/d/manifest.parquet", tmp_path)
    names = [str(job.folder.relative_to(tmp_path)) for job in jobs]
    assert len(set(names)) == 5 and names[0] == "x/a" and not any(set("{}") & set(name) for name in names)


def test_folders_of_frames_are_sources_too(tmp_path, flow):
    jobs = plan(one_video("/d/P01_01/frame_%010d.jpg#fps=60"), "/d/m.parquet", tmp_path)
    assert jobs[0].folder == tmp_path / "P01_01"
    with refused("wrong_modality", flow[0].manifest[0].flow):
        plan(one_video(flow[0].manifest[0].flow), "/d/m.parquet", tmp_path)


def test_folders_that_cannot_be_used_are_refused(rgb, tmp_path):
    manifest = load_manifest(rgb)
    with pytest.raises(StorageError) as remote:
        plan(manifest, str(rgb), "s3://bucket/flow")
    assert (remote.value.code, remote.value.key) == ("not_local", "out")
    with refused("folder_taken", "out"):
        plan(manifest, str(rgb), rgb.parent)
    (tmp_path / manifest[0].id).mkdir(parents=True)
    with refused("folder_taken", tmp_path / manifest[0].id):
        compute_flow(manifest, str(rgb), tmp_path, Settings())


def test_without_opencv(rgb, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError) as error:
        compute_flow(load_manifest(rgb), str(rgb), tmp_path / "out", Settings())
    assert (error.value.code, error.value.key) == ("missing_package", "cv2")
    assert "kineray[flow]" in error.value.remedy
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=5, fps=FPS)
    save_manifest(one_video(path), tmp_path / "m.parquet")
    arguments = ["data", "flow", str(tmp_path / "m.parquet"), "--out", str(tmp_path / "out"), "--bound", "8"]
    ran = CliRunner().invoke(cli, [*arguments, "--decoders", "1", "--json"], catch_exceptions=False)
    result = json.loads(ran.stdout)
    assert result["videos"] == 1 and result["failed"] == {}
    assert probe(load_manifest(result["manifest"])[0].flow).channels == 2
    ran = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert "data.modality=flow data.mean=0.5,0.5 data.std=0.226,0.226" in ran.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("modality", ["flow", "rgb_flow_stack"])
def test_from_videos_to_a_model_of_their_flow(tiny_experiment, kineray, tmp_path, modality):
    """synth, flow, one step of training, evaluation; a video without flow is refused in one line."""
    assert kineray("data", "synth", str(tmp_path / "rgb"), "--train", "16", "--val", "4")[0] == 0
    code, _, err = kineray("data", "flow", str(tmp_path / "rgb"), "--out", str(tmp_path / "flow"))
    assert code == 0, err
    mean, std = ("0.5,0.5", "0.2,0.2") if modality == "flow" else ("0.45,0.45,0.45,0.5,0.5", "0.2," * 5)
    chosen = {"data.modality": modality, "data.mean": mean, "data.std": std, "data.stack": 2}
    chosen |= {"train.epochs": 1, "schedule.warmup_epochs": 0, "data.manifest": str(tmp_path / "flow")}
    experiment = apply_overrides(tiny_experiment, chosen)
    manifest = load_manifest(tmp_path / "flow")
    result = train(
        experiment,
        manifest.split("train"),
        manifest.split("val"),
        checkpoints=CheckpointStore(str(tmp_path / "run" / "checkpoints")),
        on_event=lambda event: None,
    )
    assert result.step == 1
    words = ["eval", result.last_uri, "--views", "2", "--crops", "1", "--out", str(tmp_path / "p.parquet")]
    code, out, err = kineray(*words, "--json")
    assert code == 0, err
    assert json.loads(out)["failures"] == []
    code, out, err = kineray(*words[:-2], f"data.manifest={tmp_path / 'rgb'}")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "4 of 4 samples in val have no optical flow" in err
    code, out, err = kineray("predict", result.last_uri, manifest[0].uri)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    reason = "contains RGB frames, but" if modality == "flow" else "has no optical flow beside it, which"
    assert f"{manifest[0].uri}: {reason} data.modality" in err
