"""Epochs of all sequences of every sample."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_training_loop import run

from kineray.config import DataConfig, apply_overrides
from kineray.data import load_manifest, save_manifest
from kineray.data.clips.samplers import eval_times, sequence_spans, train_times
from kineray.data.clips.sequences import samples_of_epoch
from kineray.data.derive.api import validate
from kineray.errors import ConfigError, ManifestError
from kineray.training import StepEvent

ALL = DataConfig(
    sampling="sequences", sequences="all", frames=2, stride=3, fps=15, crop=32, short_side=(36, 40)
)


@given(
    st.integers(0, 300),
    st.integers(1, 300),
    st.integers(1, 12),
    st.integers(1, 15),
    st.sampled_from((15.0, 25.0)),
)
def test_the_only_sequence_of_each_span_is_a_sequence_of_the_whole(first, length, frames, stride, fps):
    """The spans together show the frames (25 a second) that evaluation with every view shows."""
    start_s, end_s = first / 25, (first + length) / 25
    clip = {"frames": frames, "stride": stride, "fps": fps}
    spans = sequence_spans(start_s, end_s, **clip)
    times = [
        train_times("sequences", *span, **clip, source_fps=25.0, rng=np.random.default_rng(0))
        for span in spans
    ]
    expected = eval_times("sequences", start_s, end_s, **clip, source_fps=25.0, views=10_000)
    np.testing.assert_allclose(times, expected, atol=0.5 / 25)
    np.testing.assert_array_equal(*(np.floor(np.multiply(some, 25) + 1e-6) for some in (times, expected)))


def test_the_number_of_sequences_is_that_of_table_5_6():
    """Table 5.6: videos of 7.2 s at 25 fps, sequences of two frames."""
    counts = [len(sequence_spans(0.0, 7.2, frames=2, stride=stride, fps=25)) for stride in (2, 5, 10, 15)]
    assert counts == [45, 18, 9, 6]


def test_every_sequence_is_a_sample_with_the_labels_of_its_video(motion_manifest):
    train_set = load_manifest(motion_manifest).split("train")
    bounded = train_set.with_samples(replace(sample, start_s=0.1, end_s=1.5) for sample in train_set)
    sequences = samples_of_epoch(bounded, ALL, None)
    assert len(sequences) == 3 * len(train_set)
    assert [sample.id for sample in sequences][:4] == [
        *(f"{train_set[0].id}#{number}" for number in range(3)),
        f"{train_set[1].id}#0",
    ]
    np.testing.assert_array_equal(sequences.labels("action"), np.repeat(train_set.labels("action"), 3))
    assert [sample.start_s for sample in sequences][:3] == pytest.approx([0.1, 0.5, 0.9])
    for changes in ({"sequences": "one"}, {"sampling": "dense"}):
        assert samples_of_epoch(bounded, ALL.model_copy(update=changes), None) is bounded


def test_samples_of_unknown_length_are_refused(motion_manifest, tmp_path):
    train_set = load_manifest(motion_manifest).split("train")
    with pytest.raises(ManifestError) as error:
        samples_of_epoch(train_set, ALL, None)
    assert (error.value.code, error.value.key) == ("unknown_length", train_set.name)


def test_sequences_of_stacked_flow_cannot_be_counted(tiny_experiment):
    changes = ["data.modality=flow_stack", "data.mean=0.5,0.5", "data.std=1,1", "data.sequences=all"]
    with pytest.raises(ConfigError) as error:
        apply_overrides(tiny_experiment, ["data.sampling=sequences", *changes])
    assert (error.value.code, error.value.key) == ("bad_value", "data")
    assert apply_overrides(tiny_experiment, changes).data.sequences == "all"  # other samplings have none


@pytest.mark.slow
def test_an_epoch_of_training_goes_through_all_sequences(tiny_experiment, tmp_path):
    """The videos last 2 s, which only their index says: 5 sequences of 0.4 s, 15 steps an epoch."""
    uri = str(tmp_path / "copy.parquet")
    save_manifest(load_manifest(tiny_experiment.data.manifest), uri)
    changes = {"data.sampling": "sequences", "data.sequences": "all", "data.frames": 2, "data.stride": 3}
    changes |= {"data.manifest": uri, "model.type": "frame", "model.backbone": "resnet18", "train.epochs": 2}
    experiment = apply_overrides(tiny_experiment, changes)
    with pytest.raises(ManifestError) as error:
        run(experiment, tmp_path)
    assert error.value.code == "unknown_length"
    validate(uri)
    _, events = run(experiment, tmp_path, stop_after=2)
    steps = [event for event in events if isinstance(event, StepEvent)]
    assert steps[-1].total_steps == 48 * 5 // 16 * 2
