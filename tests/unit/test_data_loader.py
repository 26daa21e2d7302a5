"""Batches: a pure order, slices of it for every rank, and bad clips counted, named and replaced."""

import os
import signal
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kineray.config import DataConfig, Experiment, apply_overrides
from kineray.data import (
    BatchSpec,
    ClipShape,
    Failure,
    Preprocessing,
    eval_clips,
    global_order,
    load_batches,
    load_manifest,
    sample_rng,
    steps_per_epoch,
    synthesize,
    training_batches,
)
from kineray.data.batches.loader import prefetched_batches
from kineray.data.batches.memory import BatchMemory
from kineray.data.manifest import index_cache
from kineray.errors import ConfigError, ManifestError
from kineray.video import frames_uri, index_video
from kineray.video.process import decode_process, end_idle_processes

N, BATCH = 22, 8
CLIP = 2 * 24 * 24 * 3  # bytes


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    return load_manifest(synthesize(folder, train=N, val=0, size=32, seconds=0.5, fps=10)).split("train")


@pytest.fixture(scope="module")
def preprocessing(manifest):
    data = DataConfig(
        frames=2, stride=1, fps=10, short_side=(24, 32), crop=24, eval_short_side=24, eval_crop=24
    )
    return Preprocessing.from_config(data, manifest.vocabularies)


@pytest.fixture
def damaged(manifest, tmp_path):
    """The manifest with two files spoiled: one is text, one is gone."""
    text = tmp_path / "text.mp4"
    text.write_text("no video " * 100)
    uris = {3: str(text), 7: str(tmp_path / "gone.mp4")}
    samples = [replace(sample, uri=uris.get(index, sample.uri)) for index, sample in enumerate(manifest)]
    return replace(manifest, samples=tuple(samples))


def batches(manifest, preprocessing, *, start_step=0, stop_step=4, lo=0, hi=BATCH, micro_batch=4, **changes):
    """Batches of global batches of ``BATCH`` clips, of which this rank has positions [lo, hi)."""
    per_epoch = steps_per_epoch(len(manifest), BATCH, changes.get("clips_per_sample", 1))
    specs = []
    for step in range(start_step, stop_step):
        epoch, batch = divmod(step, per_epoch)
        positions = range(batch * BATCH + lo, batch * BATCH + hi)
        specs.append(BatchSpec(step, epoch, positions, micro_batch, ClipShape.of(preprocessing)))
    return load_batches(manifest, preprocessing, specs, **({"seed": 5, "decoders": 2} | changes))


def joined(parts):
    """step -> (clips, ids) of all its micro-batches."""
    steps = {}
    for part in parts:
        clips, ids = steps.get(part.step, ((), ()))
        steps[part.step] = ((*clips, *part.clips_bthwc), (*ids, *part.ids))
    return steps


def assert_same(one, other):
    assert one.keys() == other.keys()
    for step in one:
        assert one[step][1] == other[step][1]
        assert all(torch.equal(a, b) for a, b in zip(one[step][0], other[step][0], strict=True))


def test_batches_follow_the_global_order(manifest, preprocessing):
    parts = list(batches(manifest, preprocessing))
    assert [part.step for part in parts] == [0, 0, 1, 1, 2, 2, 3, 3]
    steps = joined(parts)
    for step, (_, ids) in steps.items():
        epoch, batch = divmod(step, N // BATCH)
        order = global_order(N, 5, epoch)[batch * BATCH : (batch + 1) * BATCH]
        assert list(ids) == [manifest[int(index)].id for index in order]
    for part in parts:
        assert part.clips_bthwc.dtype == torch.uint8 and part.clips_bthwc.shape == (4, 2, 24, 24, 3)
        assert part.failures == ()
        by_id = {sample.id: sample.labels["action"] for sample in manifest}
        assert part.labels["action"].dtype == torch.int64
        assert part.labels["action"].tolist() == [by_id[name] for name in part.ids]


def test_a_clip_is_a_function_of_seed_epoch_and_id(manifest, preprocessing):
    by_id = {sample.id: sample for sample in manifest}
    for part in batches(manifest, preprocessing):
        for clip, name in zip(part.clips_bthwc, part.ids, strict=True):
            rng = sample_rng(5, part.step // (N // BATCH), name)
            wanted = preprocessing.train_clips(by_id[name].uri, by_id[name], [rng])[0]
            np.testing.assert_array_equal(clip.numpy(), wanted)


@pytest.mark.parametrize("micro_batch", [1, 3, 8, 100])
@pytest.mark.parametrize(("decoders", "max_memory"), [(1, None), (3, 10**6)])
def test_decoders_and_micro_batches_change_nothing(
    manifest, preprocessing, micro_batch, decoders, max_memory
):
    plain = joined(batches(manifest, preprocessing))
    other = batches(
        manifest, preprocessing, micro_batch=micro_batch, decoders=decoders, max_memory=max_memory
    )
    assert_same(plain, joined(other))


@pytest.mark.parametrize("cuts", [[0, 4, 8], [0, 3, 8], [0, 2, 4, 6, 8]])
def test_the_number_of_ranks_changes_nothing(manifest, preprocessing, cuts):
    whole = joined(batches(manifest, preprocessing))
    ranks = [joined(batches(manifest, preprocessing, lo=lo, hi=hi)) for lo, hi in pairwise(cuts)]
    together = {
        step: (sum((rank[step][0] for rank in ranks), ()), sum((rank[step][1] for rank in ranks), ()))
        for step in whole
    }
    assert_same(whole, together)


def test_a_resumed_run_continues_where_it_stopped(manifest, preprocessing):
    whole = joined(batches(manifest, preprocessing, stop_step=6))
    resumed = joined(batches(manifest, preprocessing, start_step=3, stop_step=6))
    assert_same({step: whole[step] for step in (3, 4, 5)}, resumed)
    assert list(batches(manifest, preprocessing, start_step=4, stop_step=4)) == []


def test_bad_clips_are_named_and_replaced(damaged, manifest, preprocessing):
    healthy = joined(batches(manifest, preprocessing, stop_step=6))
    parts = list(batches(damaged, preprocessing, stop_step=6))
    failures = [failure for part in parts for failure in part.failures]
    codes = {failure.id: failure.code for failure in failures}
    assert codes == {damaged[3].id: "not_a_video", damaged[7].id: "not_found"}
    assert all(failure.uri in failure.message and isinstance(failure, Failure) for failure in failures)
    by_id = {sample.id: sample.labels["action"] for sample in manifest}
    replaced = 0
    for step, (clips, ids) in joined(parts).items():
        for clip, name, wanted_clip, wanted in zip(clips, ids, *healthy[step], strict=True):
            assert name not in codes
            if wanted in codes:
                replaced += 1
            else:
                assert name == wanted and torch.equal(clip, wanted_clip)
    assert replaced > 0
    for part in parts:
        assert part.labels["action"].tolist() == [by_id[name] for name in part.ids]


def test_replacement_does_not_depend_on_workers(damaged, preprocessing):
    plain = list(batches(damaged, preprocessing, stop_step=6))
    other = list(batches(damaged, preprocessing, stop_step=6, decoders=3, micro_batch=8))
    assert_same(joined(plain), joined(other))
    assert [f for part in plain for f in part.failures] == [f for part in other for f in part.failures]


@pytest.mark.parametrize(("clips_per_sample", "cuts"), [(2, [0, 8]), (4, [0, 2, 3, 8]), (8, [0, 5, 8])])
def test_several_clips_of_a_sample(damaged, preprocessing, clips_per_sample, cuts):
    """The clips of the first, second ... time in an epoch, whichever of them are cut in one pass."""
    per_epoch = N * clips_per_sample // BATCH
    options = {"clips_per_sample": clips_per_sample, "stop_step": per_epoch}
    parts = [
        part for lo, hi in pairwise(cuts) for part in batches(damaged, preprocessing, lo=lo, hi=hi, **options)
    ]
    steps = {step: ([], []) for step in range(per_epoch)}
    for part in parts:
        steps[part.step][0].extend(part.clips_bthwc)
        steps[part.step][1].extend(part.ids)
    order = np.repeat(global_order(N, 5, 0), clips_per_sample)
    failed = []
    for step, (clips, ids) in steps.items():
        for place, (clip, name) in enumerate(zip(clips, ids, strict=True), start=step * BATCH):
            sample = damaged[int(order[place])]
            if order[place] in (3, 7):
                failed.append(sample.id)
                assert name != sample.id
            else:
                assert name == sample.id
                rng = sample_rng(5, 0, name, repeat=place % clips_per_sample)
                wanted = preprocessing.train_clips(sample.uri, sample, [rng])[0]
                np.testing.assert_array_equal(clip.numpy(), wanted)
    # A replacement may be one of the spoiled samples too: that is a failure of its own.
    assert len(failed) <= sum(len(part.failures) for part in parts)
    assert {failure.id for part in parts for failure in part.failures} == set(failed)
    whole = joined(batches(damaged, preprocessing, micro_batch=8, **options))
    assert_same(whole, {step: (tuple(clips), tuple(ids)) for step, (clips, ids) in steps.items()})


VARIED = {
    "nothing": [],
    "crop": ["data.short_side=24,40"],
    "crop_area": ["data.crop_area=0.2,1"],
    "flip": ["data.flip=true"],
    "color_jitter": ["data.augment.color_jitter.brightness=0.8"],
    "rand_augment": ["data.augment.rand_augment=on"],
    "random_erasing": ["data.augment.random_erasing.probability=1"],
}


@pytest.mark.parametrize("varied", VARIED)
def test_every_repetition_of_a_sample_is_augmented_by_itself(manifest, varied):
    """The clips show whole videos, so that they differ by this augmentation alone."""
    fixed = ["data.frames=8", "data.stride=1", "data.fps=10", "data.flip=false", "data.short_side=24,24"]
    fixed += ["data.crop=24", "data.eval_short_side=24", "data.eval_crop=24", "data.clips_per_sample=4"]
    data = apply_overrides(apply_overrides(Experiment(), fixed), VARIED[varied]).data
    parts = batches(manifest, Preprocessing.from_config(data, manifest.vocabularies), clips_per_sample=4)
    clips = torch.cat([part.clips_bthwc for part in parts]).unflatten(0, (-1, 4)).flatten(2)
    different = [len(of_sample.unique(dim=0)) for of_sample in clips]
    assert (max(different) == 1) == (varied == "nothing")
    # Of mirrored and other clips there are at most two.
    assert sum(different) >= {"nothing": 8, "flip": 12}.get(varied, 24)


def test_a_data_set_without_a_readable_clip_is_refused(manifest, preprocessing, tmp_path):
    gone = replace(
        manifest, samples=tuple(replace(s, uri=str(tmp_path / f"{i}.mp4")) for i, s in enumerate(manifest))
    )
    with pytest.raises(ManifestError) as error:
        next(batches(gone, preprocessing))
    assert (error.value.code, error.value.key) == ("nothing_decodable", gone.name)


@pytest.mark.parametrize(
    ("positions", "micro_batch"), [(range(4, 4), 4), (range(-1, 4), 4), (range(0, 8, 2), 4), (range(8), 0)]
)
def test_a_batch_must_have_clips(preprocessing, positions, micro_batch):
    with pytest.raises(ValueError, match="impossible batch"):
        BatchSpec(0, 0, positions, micro_batch, ClipShape.of(preprocessing))


def test_a_batch_must_lie_in_its_epoch(manifest, preprocessing):
    spec = BatchSpec(0, 0, range(20, 23), 3, ClipShape.of(preprocessing))
    with pytest.raises(ValueError, match="beyond the 22 clips"):
        list(load_batches(manifest, preprocessing, [spec], seed=5, decoders=1))


@pytest.mark.parametrize("change", [{"crop": 33}, {"frames": 0}, {"short_side": (30, 24)}, {"stride": 0}])
def test_a_clip_must_fit_its_video(change):
    with pytest.raises(ValueError, match="impossible ClipShape"):
        replace(ClipShape(frames=2, stride=1, short_side=(32, 40), crop=32), **change)


@pytest.mark.parametrize("max_memory", [None, 60 * CLIP])
def test_batches_may_differ_in_size_clip_shape_and_place(manifest, preprocessing, max_memory):
    """Every clip is what the preprocessing of that shape cuts."""
    shapes = [
        ClipShape.of(preprocessing),
        ClipShape(frames=4, stride=1, short_side=(16, 20), crop=16),
        ClipShape(frames=1, stride=2, short_side=(32, 40), crop=32),
    ]
    specs = [
        BatchSpec(0, 0, range(0, 8), 4, shapes[0]),
        BatchSpec(1, 0, range(8, 14), 2, shapes[1]),
        BatchSpec(2, 0, range(14, 22), 8, shapes[2]),
        BatchSpec(3, 1, range(3, 5), 8, shapes[1]),
        BatchSpec(7, 4, range(21, 22), 1, shapes[0]),
    ]
    parts = list(load_batches(manifest, preprocessing, specs, seed=5, decoders=2, max_memory=max_memory))
    assert [(part.step, len(part.ids)) for part in parts] == [
        *((0, 4), (0, 4), (1, 2), (1, 2), (1, 2), (2, 8), (3, 2), (7, 1))
    ]
    by_id = {sample.id: sample for sample in manifest}
    specs = {spec.step: spec for spec in specs}
    for part in parts:
        spec = specs[part.step]
        for clip, name in zip(part.clips_bthwc, part.ids, strict=True):
            rng = sample_rng(5, spec.epoch, name)
            shaped = spec.clip.applied_to(preprocessing)
            wanted = shaped.train_clips(by_id[name].uri, by_id[name], [rng])[0]
            np.testing.assert_array_equal(clip.numpy(), wanted)
    order = global_order(N, 5, 0)
    ids = [name for part in parts if part.step < 3 for name in part.ids]
    assert ids == [manifest[int(index)].id for index in order]


def test_labels_may_be_made_by_a_task(manifest, preprocessing):
    """Here the length of the id."""
    parts = batches(
        manifest,
        preprocessing,
        stop_step=1,
        targets=lambda samples: {"length": torch.tensor([len(sample.id) for sample in samples])},
    )
    for part in parts:
        assert part.labels["length"].tolist() == [len(name) for name in part.ids]


def test_a_head_of_several_classes_has_multi_hot_labels(manifest, preprocessing):
    """Half of the samples have no known classes, the others one or two."""
    classes = [None if index % 2 else (0, 2) if index % 4 else (1,) for index in range(len(manifest))]
    several = replace(
        manifest,
        samples=tuple(
            replace(sample, labels={"action": of_sample})
            for sample, of_sample in zip(manifest, classes, strict=True)
        ),
        multi_label=frozenset({"action"}),
    )
    part = next(batches(several, preprocessing))
    rows = {None: [255] * 4, (0, 2): [1, 0, 1, 0], (1,): [0, 1, 0, 0]}
    by_id = {sample.id: sample.labels["action"] for sample in several}
    assert part.labels["action"].tolist() == [rows[by_id[name]] for name in part.ids]
    with pytest.raises(ConfigError) as error:
        next(batches(several, preprocessing, balance=("action", 0.5)))
    assert (error.value.code, error.value.key) == ("multi_label", "data.balance")


def test_training_batches_in_one_call(manifest, preprocessing):
    """With defaults for everything but the size; a loop that stopped continues where it was."""
    data = DataConfig(
        frames=2, stride=1, fps=10, short_side=(24, 32), crop=24, eval_short_side=24, eval_crop=24
    )
    whole = list(training_batches(manifest, data, seed=5, epochs=2))
    assert_same(joined(whole), joined(batches(manifest, preprocessing)))
    assert [len(part.ids) for part in whole] == [BATCH] * 4
    rest = list(training_batches(manifest, data, seed=5, epochs=2, start_step=3))
    assert_same({3: joined(whole)[3]}, joined(rest))
    assert next(training_batches(manifest, global_batch=1)).clips_bthwc.shape == (1, 32, 224, 224, 3)


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_an_epoch_has_more_steps_with_more_clips_of_a_sample():
    assert [steps_per_epoch(22, 8, clips) for clips in (1, 2, 4)] == [2, 5, 11]
    assert steps_per_epoch(22, 88, 4) == 1
    with pytest.raises(ConfigError) as error:
        steps_per_epoch(22, 89, 4)
    assert (error.value.code, error.value.key) == ("batch_larger_than_epoch", "train.global_batch")


def test_closing_ends_the_threads(manifest, preprocessing):
    for stream in (
        batches(manifest, preprocessing, stop_step=1000),
        eval_clips(manifest, preprocessing, views=1, crops=1, indices=range(N), decoders=2),
    ):
        next(stream)
        assert decoding_threads()
        stream.close()
        assert not decoding_threads()


def test_little_is_decoded_ahead(manifest, preprocessing, tmp_path):
    """Memory for two micro-batches ahead: a video that is needed later may still be absent."""
    order = [int(index) for index in global_order(N, 5, 0)]
    late = tmp_path / "late.mp4"
    samples = list(manifest.samples)
    samples[order[7]] = replace(samples[order[7]], uri=str(late))
    stream = batches(
        replace(manifest, samples=tuple(samples)),
        preprocessing,
        micro_batch=1,
        max_memory=6 * CLIP,
        stop_step=1,
    )
    first = [next(stream) for _ in range(4)]
    time.sleep(0.5)  # long enough for idle decoders to reach the late video, were they allowed to
    late.write_bytes(Path(manifest[order[7]].uri).read_bytes())
    assert not any(part.failures for part in [*first, *stream])


@pytest.fixture(scope="module")
def with_flow(manifest, tmp_path_factory):
    """The manifest with folders of flow, with other grey values for each video; the fourth is missing."""
    folder = tmp_path_factory.mktemp("flow")
    samples = []
    for index, sample in enumerate(manifest):
        for name in "uv" if index != 3 else "":
            (folder / str(index) / name).mkdir(parents=True)
            for number in range(1, 5):
                value = np.full((16, 16), 10 * index + number, np.uint8)
                Image.fromarray(value).save(folder / str(index) / name / f"{number}.png")
        uri = frames_uri(folder / str(index) / "{u,v}" / "%d.png", fps=10, bound=20)
        samples.append(replace(sample, flow=uri))
    return replace(manifest, samples=tuple(samples))


def with_modality(preprocessing, modality):
    values = {"flow": ((0.5,) * 2, (0.2,) * 2), "rgb_flow_stack": ((0.5,) * 5, (0.2,) * 5)}
    mean, std = values[modality]
    return preprocessing.model_copy(update={"modality": modality, "mean": mean, "std": std, "stack": 2})


@pytest.mark.parametrize("modality", ["flow", "rgb_flow_stack"])
def test_flow_comes_with_its_video(with_flow, preprocessing, modality):
    """Decoding processes give the same clips; missing flow is a failure that is named."""
    chosen = with_modality(preprocessing, modality)
    parts = list(batches(with_flow, chosen, stop_step=2))
    by_id = {sample.id: sample for sample in with_flow}
    failed = {failure.id: failure for part in parts for failure in part.failures}
    for part in parts:
        assert part.clips_bthwc.shape[-1] == chosen.channels
        if not part.failures:
            for clip, name in zip(part.clips_bthwc, part.ids, strict=True):
                source, flow = chosen.sources(by_id[name])
                wanted = chosen.train_clips(source, by_id[name], [sample_rng(5, 0, name)], flow=flow)[0]
                np.testing.assert_array_equal(clip.numpy(), wanted)
    lost = with_flow[3]
    assert failed.keys() <= {lost.id}
    for sample, clips, times, failure in eval_clips(
        with_flow, chosen, views=2, crops=3, indices=(0, 3, 5), decoders=2
    ):
        if sample == lost:
            assert clips is None and failure.code == "not_found" and "/flow" in failure.message
            assert failure.uri == (lost.flow if modality == "flow" else lost.uri)
        else:
            source, flow = chosen.sources(sample)
            wanted, wanted_times = chosen.eval_views(source, views=2, crops=3, flow=flow)
            np.testing.assert_array_equal(clips, wanted)
            np.testing.assert_array_equal(times, wanted_times)


def test_evaluation_goes_in_order_and_lists_bad_clips(damaged, preprocessing):
    indices = [7, 0, 3, 5]
    results = list(eval_clips(damaged, preprocessing, views=2, crops=3, indices=indices, decoders=3))
    assert [sample.id for sample, *_ in results] == [damaged[index].id for index in indices]
    for index, (sample, clips, times, failure) in zip(indices, results, strict=True):
        if index in (3, 7):
            assert clips is None and times is None
            assert failure.id == sample.id and failure.code == {3: "not_a_video", 7: "not_found"}[index]
        else:
            wanted, wanted_times = preprocessing.eval_views(sample.uri, views=2, crops=3)
            np.testing.assert_array_equal(clips, wanted)
            np.testing.assert_array_equal(times, wanted_times)
            assert failure is None


def test_memory_for_clips_is_bounded(preprocessing):
    def ahead(max_memory, decoders=2, micro_batch=4):
        return prefetched_batches(preprocessing, micro_batch, decoders, max_memory)

    assert ahead(None) == ahead(10**12) == 2
    assert ahead(None, decoders=16) == 6
    # Two batches in use and each decoder's clip; the rest may wait.
    assert [ahead((2 * 4 + 2 + 4 * n) * CLIP) for n in (1, 2, 3)] == [1, 2, 2]
    with pytest.raises(ConfigError) as error:
        ahead((2 * 4 + 2 + 4) * CLIP - 1)
    assert (error.value.code, error.value.key) == ("too_little_memory", "max_memory")


def test_a_clip_is_the_same_with_indexes(manifest, preprocessing, tmp_path):
    """Packet indexes beside the manifest change how fast clips are read, not what they show."""
    path = tmp_path / "m.parquet"
    index_cache.write(str(path), {sample.uri: index_video(sample.uri).to_bytes() for sample in manifest})
    indexes = index_cache.IndexCache.beside(str(path))
    assert len(indexes) == N
    assert_same(
        joined(batches(manifest, preprocessing)), joined(batches(manifest, preprocessing, indexes=indexes))
    )


def test_balanced_classes(manifest, preprocessing):
    few = [sample for sample in manifest if sample.labels["action"] != 0] + [manifest[0]]
    uneven = replace(manifest, samples=tuple(few))
    labels = [
        int(label)
        for part in batches(uneven, preprocessing, balance=("action", 0.0))
        for label in part.labels["action"]
    ]
    assert len(labels) == 32 and all(7 <= labels.count(label) <= 9 for label in range(4))
    clips = [
        clip for part in batches(uneven, preprocessing, balance=("action", 0.0)) for clip in part.clips_bthwc
    ]
    assert len({clip.numpy().tobytes() for clip in clips}) > 24, "what is seen again is cut anew"


def test_only_the_trained_heads_have_labels(manifest, preprocessing):
    two = replace(
        manifest,
        samples=tuple(replace(s, labels=s.labels | {"other": 1}) for s in manifest),
        vocabularies={**manifest.vocabularies, "other": ("a", "b")},
    )
    assert next(batches(two, preprocessing)).labels.keys() == {"action"}


def test_memory_of_batches_is_reused_when_nothing_refers_to_them(manifest, preprocessing):
    stream = batches(manifest, preprocessing, stop_step=40)
    dropped = {next(stream).clips_bthwc.data_ptr() for _ in range(20)}
    assert len(dropped) <= 5
    held = [next(stream).clips_bthwc[1:, :, 2] for _ in range(12)]  # views keep their batch
    before = [view.clone() for view in held]
    for _ in range(12):
        next(stream)
    assert len({view.data_ptr() for view in held}) == 12
    assert all(torch.equal(view, copy) for view, copy in zip(held, before, strict=True))


def test_memory_of_another_size_is_released(manifest, preprocessing):
    """A run whose batches grow does not keep the small ones."""
    memory = BatchMemory(pin_memory=False)
    small = [memory.take((4, 4)) for _ in range(3)]
    del small
    assert memory.free == 3 * 16
    large = memory.take((8, 4))
    assert memory.free == 0 and large.shape == (8, 4)
    address = large.data_ptr()
    del large
    for shape in ((4, 8), (5, 6), (4, 4)):  # batches whose sizes take turns share memory
        lent = memory.take(shape)
        assert lent.data_ptr() == address and lent.shape == shape
        del lent
    assert memory.take((3, 5)).data_ptr() != address


def test_a_decoder_that_dies_is_a_bad_clip(manifest, preprocessing):
    """A file that crashes libav costs its clip, not the run."""
    end_idle_processes()
    with decode_process() as kept:
        child = kept.call(os.getpid, name="x")
    stream = batches(manifest, preprocessing, decoders=1, micro_batch=1, stop_step=2)
    first = next(stream)
    os.kill(child, signal.SIGSEGV)
    parts = [first, *stream]
    failures = [failure for part in parts for failure in part.failures]
    assert [failure.code for failure in failures] == ["crashed"]
    assert "the decoder ended with SIGSEGV" in failures[0].message
    assert [len(part.ids) for part in parts] == [1] * (2 * BATCH)
