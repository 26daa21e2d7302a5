"""Drawn views: clips that epochs take in turns, and clips that nothing random changes."""

import numpy as np
import pytest
import torch

from kineray.config import ColorJitterConfig, DataConfig, Experiment, MultigridConfig
from kineray.data import (
    BatchSpec,
    ClipDataset,
    ClipShape,
    Preprocessing,
    load_batches,
    load_manifest,
    sample_rng,
    synthesize,
    training_batches,
)
from kineray.data.batches.loader import drawn_clips
from kineray.data.clips.draws import ClipDraws
from kineray.errors import ConfigError

N = 6
CLIPS = {"frames": 2, "stride": 1, "fps": 10, "short_side": (24, 32), "crop": 24}
EVAL = {"eval_short_side": 26, "eval_crop": 24}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    return load_manifest(synthesize(folder, train=N, val=0, size=32, seconds=0.5, fps=10)).split("train")


def clips_of_epochs(manifest, epochs, **fields):
    """[{sample id: its clips in order} for each epoch]."""
    data = DataConfig(**CLIPS, **EVAL, **fields)
    size = N * data.clips_per_sample
    specs = [BatchSpec(epoch, epoch, range(size), 3, ClipShape.of(data)) for epoch in range(epochs)]
    found = [{} for _ in range(epochs)]
    for batch in load_batches(
        manifest,
        Preprocessing.from_config(data, manifest.vocabularies),
        specs,
        seed=5,
        decoders=2,
        clips_per_sample=data.clips_per_sample,
        drawn_views=data.drawn_views,
    ):
        for name, clip in zip(batch.ids, batch.clips_bthwc, strict=True):
            found[batch.step].setdefault(name, []).append(clip.numpy().copy())
    return found


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("clips_per_sample", [1, 2])
def test_views_are_the_clips_that_a_run_without_them_shows_first(manifest, clips_per_sample):
    drawn = clips_of_epochs(manifest, 4, drawn_views=2 * clips_per_sample, clips_per_sample=clips_per_sample)
    anew = clips_of_epochs(manifest, 3, clips_per_sample=clips_per_sample)
    assert_equal(drawn[0], anew[0])
    assert_equal(drawn[1], anew[1])
    assert_equal(drawn[2], drawn[0])
    assert_equal(drawn[3], drawn[1])
    name = manifest[0].id
    assert not np.array_equal(anew[2][name], anew[0][name])


def test_clips_without_a_draw_are_those_of_evaluation(manifest):
    (epoch,) = clips_of_epochs(manifest, 1, drawn_views=0)
    preprocessing = Preprocessing.from_config(DataConfig(**CLIPS, **EVAL), manifest.vocabularies)
    for sample in manifest:
        wanted, _ = preprocessing.eval_views(sample.uri, sample.start_s, sample.end_s)
        np.testing.assert_array_equal(epoch[sample.id][0], wanted[0])


@pytest.mark.parametrize("views", [0, 2])
def test_a_data_set_and_batches_for_ones_own_loop_draw_the_same(manifest, views):
    data = DataConfig(**CLIPS, **EVAL, drawn_views=views)
    wanted = clips_of_epochs(manifest, 3, drawn_views=views)
    dataset = ClipDataset(manifest, data, seed=5)
    for epoch in range(3):
        dataset.set_epoch(epoch)
        for number, sample in enumerate(manifest):
            np.testing.assert_array_equal(dataset[number][0].numpy(), wanted[epoch][sample.id][0])
    batches = training_batches(manifest, data, global_batch=N, epochs=3, seed=5, decoders=1)
    for epoch, batch in enumerate(batches):
        for name, clip in zip(batch.ids, batch.clips_bthwc, strict=True):
            np.testing.assert_array_equal(clip.numpy(), wanted[epoch][name][0])


@pytest.mark.parametrize(("views", "clips_per_sample"), [(0, 1), (1, 1), (3, 1), (3, 2)])
def test_rows_are_the_views_of_each_sample(manifest, views, clips_per_sample):
    draws = ClipDraws(5, views, clips_per_sample)
    data = DataConfig(**CLIPS, **EVAL)
    preprocessing = Preprocessing.from_config(data, manifest.vocabularies)
    count = views or 1
    rows = range(1, 2 * count + 1)
    found = [
        clip for clips, _ in drawn_clips(manifest, preprocessing, rows, draws, decoders=2) for clip in clips
    ]
    assert len(found) == len(rows)
    for row, clip in zip(rows, found, strict=True):
        sample, view = manifest[row // count], row % count
        if views:
            epoch, repeat = divmod(view, clips_per_sample)
            rng = sample_rng(5, epoch, sample.id, repeat=repeat)
            wanted = preprocessing.train_clips(sample.uri, sample, [rng])[0]
        else:
            wanted = preprocessing.eval_views(sample.uri, sample.start_s, sample.end_s)[0][0]
        np.testing.assert_array_equal(clip, wanted)


def test_epochs_go_through_the_views_in_turn():
    draws = ClipDraws(0, views=3, clips_per_sample=2)
    shown = [draws.view(epoch, repeat) for epoch in range(3) for repeat in range(2)]
    assert shown == [0, 1, 2, 0, 1, 2]
    assert ClipDraws(7, views=0).key(4, 1) == ClipDraws(8, views=0).key(0, 0)  # nothing random, so no seed


@pytest.mark.parametrize(
    "fields",
    [{"eval_crop": 32, "eval_short_side": 32}, {"augment": [ColorJitterConfig()]}],
)
def test_clips_of_evaluation_have_their_crop_and_no_augmentation(fields):
    with pytest.raises(ConfigError) as error:
        DataConfig(**CLIPS | EVAL | fields, drawn_views=0)
    assert error.value.code == "bad_value"


def test_clips_of_evaluation_have_one_size():
    with pytest.raises(ConfigError) as error:
        Experiment(data=DataConfig(crop=224, eval_crop=224, drawn_views=0), recipe=[MultigridConfig()])
    assert (error.value.code, error.value.key) == ("bad_value", "data.drawn_views")


def test_batches_are_uint8(manifest):
    data = DataConfig(**CLIPS, **EVAL, drawn_views=0)
    batch = next(training_batches(manifest, data, global_batch=N, decoders=1))
    assert batch.clips_bthwc.dtype == torch.uint8 and batch.clips_bthwc.shape == (N, 2, 24, 24, 3)
