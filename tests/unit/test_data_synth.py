"""The synthetic classes differ in motion and in nothing that a single frame shows."""

from dataclasses import replace
from math import comb
from pathlib import Path

import av
import numpy as np
import pytest
from slow_cases import slow_after

from kineray.data import load_manifest, read_dataset, reencode, save_manifest, synthesize
from kineray.data.derive import synth
from kineray.data.derive.validate import drop_samples
from kineray.errors import ConfigError, ManifestError
from kineray.video import probe, read_clip

TRAIN, VAL, FPS = 480, 160, 10


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return synthesize(tmp_path_factory.mktemp("synth"), train=TRAIN, val=VAL, size=32, seconds=0.6, fps=FPS)


def frames_of(manifest, index):
    """One frame of every video: float [N, H, W, 3]."""
    return np.concatenate([read_clip(sample.uri, [index / FPS]) for sample in manifest]).astype(float)


def labels_of(manifest):
    return np.array([sample.labels["action"] for sample in manifest])


def most_by_chance(count, classes=4):
    """The number of right answers that a guesser exceeds less than once in ten thousand data sets."""
    p, above = 1 / classes, 0.0
    for right in range(count, -1, -1):
        above += comb(count, right) * p**right * (1 - p) ** (count - right)
        if above > 1e-4:
            return right
    return 0


def chance_of_such_groups(values, labels):
    """p-value of a permutation test: how often shuffled labels separate the class means as far."""

    def spread(groups):
        return sum((values[groups == label].mean() - values.mean()) ** 2 for label in range(4))

    rng, found = np.random.default_rng(0), spread(labels)
    return np.mean([spread(rng.permutation(labels)) >= found for _ in range(1000)])


def features(frames_nhwc):
    """Views of a frame in which a class could hide: pixels, gradients, spectrum, borders, statistics."""
    grey = frames_nhwc.mean(-1)
    small = frames_nhwc.reshape(len(grey), 8, 4, 8, 4, 3).mean((2, 4))
    spectrum = np.log1p(np.abs(np.fft.rfft2(grey)))
    dx, dy = np.diff(grey, axis=2), np.diff(grey, axis=1)
    gradients = np.concatenate([np.abs(dx).mean(1), np.abs(dy).mean(2), dx.mean(1), dy.mean(2)], axis=1)
    borders = np.concatenate(
        [grey[:, :2], grey[:, -2:], grey.transpose(0, 2, 1)[:, :2], grey.transpose(0, 2, 1)[:, -2:]], axis=1
    )
    return {
        "pixels": small.reshape(len(grey), -1),
        "spectrum": spectrum.reshape(len(grey), -1),
        "gradients": gradients,
        "borders": borders.reshape(len(grey), -1),
        "colours": np.concatenate([frames_nhwc.mean((1, 2)), frames_nhwc.std((1, 2))], axis=1),
    }


def nearest_mean(train, labels, test):
    means = np.stack([train[labels == label].mean(0) for label in range(4)])
    return np.linalg.norm(test[:, None] - means[None], axis=2).argmin(1)


def ridge(train, labels, test):
    """A linear classifier: least squares on one-hot labels with a little regularisation."""
    centre, scale = train.mean(0), train.std(0) + 1e-6
    x = np.c_[(train - centre) / scale, np.ones(len(train))]
    y = np.eye(4)[labels]
    # The dual form, since there are more features than samples.
    weights = x.T @ np.linalg.solve(x @ x.T + 0.1 * x.shape[1] * np.eye(len(x)), y)
    return (np.c_[(test - centre) / scale, np.ones(len(test))] @ weights).argmax(1)


def motion(clip_thwc):
    """(x, y) pixels between two frames, from the peak of their phase correlation."""
    first, second = (np.fft.fft2(frame.mean(-1)) for frame in clip_thwc.astype(float))
    cross = first.conj() * second
    peak = np.fft.ifft2(cross / np.abs(cross).clip(1e-9)).real
    y, x = np.unravel_index(peak.argmax(), peak.shape)
    side = peak.shape[0]
    return (x + side // 2) % side - side // 2, (y + side // 2) % side - side // 2


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 5])
@pytest.mark.parametrize("classify", [nearest_mean, ridge])
def test_single_frames_are_at_chance(path, classify, index):
    manifest = load_manifest(path)
    train, val = manifest.split("train"), manifest.split("val")
    seen, unseen = features(frames_of(train, index)), features(frames_of(val, index))
    for name in seen:
        right = (classify(seen[name], labels_of(train), unseen[name]) == labels_of(val)).sum()
        assert right <= most_by_chance(VAL), name


@pytest.mark.slow
def test_the_classifiers_would_find_a_class_that_shows(path):
    """The test above can fail: a faint brightening of one class is found by the same classifiers."""
    manifest = load_manifest(path)
    train, val = manifest.split("train"), manifest.split("val")
    for classify, name in ((nearest_mean, "colours"), (ridge, "pixels")):
        seen, unseen = (
            features(frames_of(split, 0) + 12 * (labels_of(split) == 2)[:, None, None, None])[name]
            for split in (train, val)
        )
        right = (classify(seen, labels_of(train), unseen) == labels_of(val)).sum()
        assert right > most_by_chance(VAL)


@pytest.mark.parametrize("index", slow_after(1, [0, 5]))
def test_frame_statistics_are_equal_in_every_class(path, index):
    manifest = load_manifest(path)
    frames, labels = frames_of(manifest, index), labels_of(manifest)
    statistics = {
        "mean": frames.mean((1, 2, 3)),
        "deviation": frames.std((1, 2, 3)),
        "left to right": np.abs(np.diff(frames, axis=2)).mean((1, 2, 3)),
        "top to bottom": np.abs(np.diff(frames, axis=1)).mean((1, 2, 3)),
        "brightest": np.quantile(frames, 0.99, axis=(1, 2, 3)),
    }
    for name, values in statistics.items():
        assert chance_of_such_groups(values, labels) > 2e-3, name
    assert chance_of_such_groups(statistics["mean"] + 3 * (labels == 1), labels) < 2e-3  # the test can fail


def test_the_class_can_be_recognised_from_motion(path):
    manifest = load_manifest(path).split("val")
    for sample in manifest:
        x, y = motion(read_clip(sample.uri, [0.0, 1 / FPS]))
        name = manifest.vocabularies["action"][sample.labels["action"]]
        assert (x, y) == tuple(2 * part for part in synth.DRIFTS[name]), sample.id


@pytest.mark.parametrize("name", synth.DRIFTS)
@pytest.mark.parametrize("speed", [0.5, 1.0, 3.0])
def test_a_texture_moves_without_changing(name, speed):
    direction = synth.DRIFTS[name]
    frames = synth.drifting_texture(
        np.random.default_rng(0),
        size=32,
        frames=9,
        velocity=(direction[0] * speed, direction[1] * speed),
        smoothness=3,
    )
    whole = np.roll(frames[0], (int(8 * speed * direction[1]), int(8 * speed * direction[0])), axis=(0, 1))
    assert frames.dtype == np.uint8
    assert np.abs(whole.astype(int) - frames[8]).max() <= 1


def test_files_are_real_h264_and_the_manifest_is_balanced(path):
    manifest = load_manifest(path)
    assert manifest.found == {"train": TRAIN, "val": VAL}
    assert manifest.vocabularies == {"action": ("drift_left", "drift_right", "drift_up", "drift_down")}
    for split in ("train", "val"):
        assert len(set(np.bincount(labels_of(manifest.split(split))))) == 1
    info = probe(manifest[0].uri)
    assert (info.codec, info.width, info.height, info.frames) == ("h264", 32, 32, 6)
    assert info.duration_s == pytest.approx(0.6) and info.fps == FPS


def test_the_coding_does_not_reveal_the_class(path):
    """Every frame is coded independently: prediction from other frames would leave traces of the motion."""
    manifest = load_manifest(path)
    with av.open(manifest[0].uri) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert len(packets) == 6 and all(packet.is_keyframe for packet in packets)
    sizes = np.array([Path(sample.uri).stat().st_size for sample in manifest], float)
    assert chance_of_such_groups(sizes, labels_of(manifest)) > 2e-3


def test_the_same_arguments_give_the_same_set(tmp_path):
    small = {"train": 4, "val": 4, "size": 32, "seconds": 0.3}
    done = []
    first = load_manifest(synthesize(tmp_path / "a", **small, progress=lambda *state: done.append(state)))
    second = load_manifest(synthesize(tmp_path / "b", **small, threads=1))
    other = load_manifest(synthesize(tmp_path / "c", **small, seed=1))
    assert first.content_hash == second.content_hash != other.content_hash
    assert done == [(index, 8) for index in range(1, 9)]
    for one, same, different in zip(first, second, other, strict=True):
        pixels = [read_clip(sample.uri, [0.0, 0.2]) for sample in (one, same, different)]
        np.testing.assert_array_equal(pixels[0], pixels[1])
        assert np.abs(pixels[0].astype(int) - pixels[2]).mean() > 10


@pytest.mark.parametrize(
    ("name", "value"), [("size", 33), ("size", 8), ("train", -1), ("val", -1), ("seconds", 0.0)]
)
def test_values_that_make_no_video_are_refused(tmp_path, name, value):
    with pytest.raises(ConfigError) as error:
        synthesize(tmp_path / "set", **({"train": 1, "val": 0} | {name: value}))
    assert (error.value.code, error.value.key) == ("out_of_range", name)
    assert not (tmp_path / "set").exists()


def test_the_axis_can_be_the_label(tmp_path):
    manifest = load_manifest(synthesize(tmp_path, train=8, val=4, size=16, seconds=0.2, label="axis"))
    assert manifest.vocabularies == {"axis": ("horizontal", "vertical")}
    axes = {sample.id.split("/")[1]: sample.labels["axis"] for sample in manifest}
    assert axes == {"drift_left": 0, "drift_right": 0, "drift_up": 1, "drift_down": 1}


def test_a_manifest_that_another_command_wrote_is_not_replaced(tmp_path):
    small = {"train": 4, "val": 4, "size": 32, "seconds": 0.2}
    folder = tmp_path / "set"
    made = synthesize(folder, **small)
    assert synthesize(folder, **small | {"train": 8}, seed=1) == made  # its own one is
    reencode(made, str(tmp_path / "copy"))
    own, imported = load_manifest(made), read_dataset(folder)
    split = own.with_samples(replace(sample, split="val") for sample in own)
    clean = drop_samples(own, {own[0].id})
    assert len(own) == 12
    for other in (imported, split, clean, None):
        if other:
            save_manifest(other, made)
        taken = folder if other else tmp_path / "copy"
        before = contents(taken)
        with pytest.raises(ManifestError) as error:
            synthesize(taken, **small)
        assert (error.value.code, error.value.key, error.value.value) == ("folder_taken", "folder", taken)
        assert contents(taken) == before


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_made_actions_are_long_tailed_and_say_what_they_show(tmp_path):
    from kineray.data.derive.synth_actions import NOUNS, VERBS, action, synthesize_actions

    small = {"train": 60, "val": 20, "size": 32, "frames": 6}
    manifest = load_manifest(synthesize_actions(tmp_path / "a", **small))
    again = load_manifest(synthesize_actions(tmp_path / "b", **small, threads=1))
    assert manifest.vocabularies == {"verb": tuple(VERBS), "noun": NOUNS}
    assert [s.labels for s in manifest] == [s.labels for s in again]
    counts = [[s.labels[head] for s in manifest].count(0) for head in ("verb", "noun")]
    assert all(count > len(manifest) / 4 for count in counts)
    for sample, other in list(zip(manifest, again, strict=True))[:3]:
        made = action(sample, size=32, frames=6, seed=0)
        read = read_clip(sample.uri, [n / 15 for n in range(6)])
        np.testing.assert_array_equal(read, read_clip(other.uri, [n / 15 for n in range(6)]))
        assert abs(read.astype(float) - made).mean() < 12  # of 255, by the coding
        assert (made[0] != made[-1]).any()  # something moves
    with pytest.raises(ManifestError) as error:
        synthesize_actions(synthesize(tmp_path / "c", train=1, val=0, size=16, seconds=0.2).parent)
    assert error.value.code == "folder_taken"
