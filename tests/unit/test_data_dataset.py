"""A manifest as a torch Dataset."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from kineray.config import DataConfig
from kineray.data import (
    BatchSpec,
    ClipDataset,
    ClipShape,
    eval_clips,
    load_batches,
    load_manifest,
    synthesize,
)
from kineray.errors import ConfigError, DecodeError

DATA = DataConfig(frames=2, stride=1, fps=10, short_side=(24, 32), crop=24, eval_short_side=24, eval_crop=24)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    return load_manifest(synthesize(folder, train=6, val=2, size=32, seconds=0.5, fps=10))


def test_its_clips_are_those_of_training(manifest):
    """Through a DataLoader with workers, in the second epoch."""
    train_set = manifest.split("train")
    dataset = ClipDataset(train_set, DATA, seed=5)
    dataset.set_epoch(1)
    spec = BatchSpec(0, 1, range(6), 6, ClipShape.of(DATA))
    (batch,) = load_batches(train_set, dataset.preprocessing, [spec], seed=5, decoders=1)
    loader = DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context="fork")
    by_id = {}
    for number, (clips_bthwc, labels) in enumerate(loader):
        assert clips_bthwc.dtype == torch.uint8 and clips_bthwc.shape[1:] == (2, 24, 24, 3)
        for row, clip_thwc in enumerate(clips_bthwc):
            by_id[train_set[4 * number + row].id] = clip_thwc, labels["action"][row]
    assert len(by_id) == len(dataset) == 6
    for name, clip_thwc, label in zip(batch.ids, batch.clips_bthwc, batch.labels["action"], strict=True):
        assert torch.equal(by_id[name][0], clip_thwc) and by_id[name][1] == label
    assert not torch.equal(dataset[0][0], ClipDataset(train_set, DATA, seed=6)[0][0])


def test_an_epoch_reaches_workers_that_persist(manifest):
    dataset = ClipDataset(manifest.split("train"), DATA)
    loader = DataLoader(dataset, num_workers=1, persistent_workers=True, multiprocessing_context="fork")
    epochs = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        epochs.append(torch.cat([clip for clip, _ in loader]))
    assert torch.equal(epochs[0], epochs[2]) and not torch.equal(epochs[0], epochs[1])


def test_without_training_it_gives_the_centre(manifest):
    val_set = manifest.split("val")
    dataset = ClipDataset(val_set, DATA, training=False)
    views = eval_clips(val_set, dataset.preprocessing, views=1, crops=1, indices=range(2), decoders=1)
    for (clip_thwc, _), (_, clips_vthwc, _, _) in zip(dataset, views, strict=False):
        assert torch.equal(clip_thwc, torch.from_numpy(clips_vthwc[0]))


def test_sequences_of_training_are_clips_of_their_own(manifest):
    data = DATA.model_copy(update={"sampling": "sequences", "sequences": "all"})
    bounded = manifest.with_samples(replace(s, end_s=0.5) for s in manifest)
    assert len(ClipDataset(bounded, data)) == 2 * len(manifest)
    assert len(ClipDataset(bounded, data, training=False)) == len(manifest)


def test_it_says_what_it_cannot_read(manifest, tmp_path):
    lost = manifest.with_samples(replace(s, uri=str(tmp_path / "gone.mp4")) for s in manifest)
    with pytest.raises(DecodeError) as error:
        ClipDataset(lost, DATA)[0]
    assert error.value.code == "not_found"
    with pytest.raises(ConfigError):
        ClipDataset(manifest, DATA.model_copy(update={"heads": ("verb",)}))
