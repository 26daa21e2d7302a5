"""The timestamps of the frames of a clip: every sampler on every span, and the rules of their papers."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kineray.data.clips.samplers import eval_times, train_times
from kineray.errors import ConfigError

SAMPLINGS = ("dense", "uniform", "segments", "sequences")
CLIP = {"frames": 8, "stride": 2, "fps": 25.0, "source_fps": 25.0}

a_sampling = st.sampled_from(SAMPLINGS)
a_span = st.tuples(st.floats(0, 5000), st.floats(0, 100)).map(lambda span: (span[0], span[0] + span[1]))
a_clip = st.fixed_dictionaries(
    {
        "frames": st.integers(1, 40),
        "stride": st.integers(1, 16),
        "fps": st.floats(0.1, 120),
        "source_fps": st.just(0.0) | st.floats(1, 240),
    }
)


def train(sampling, start_s, end_s, seed=0, **changes):
    return train_times(sampling, start_s, end_s, **(CLIP | changes), rng=np.random.default_rng(seed))


def evaluate(sampling, start_s, end_s, views=1, **changes):
    return eval_times(sampling, start_s, end_s, **(CLIP | changes), views=views)


# -- every sampler ----------------------------------------------------------------------------------


@given(sampling=a_sampling, span=a_span, clip=a_clip, seed=st.integers(0, 1000))
def test_training_stays_in_the_span(sampling, span, clip, seed):
    times = train(sampling, *span, seed, **clip)
    assert times.shape == (clip["frames"],) and times.dtype == np.float64
    assert_inside(times, *span, clip["source_fps"])
    assert (np.diff(times) >= 0).all()
    assert np.array_equal(times, train(sampling, *span, seed, **clip))


@given(sampling=a_sampling, span=a_span, clip=a_clip, views=st.integers(1, 12))
def test_evaluation_stays_in_the_span(sampling, span, clip, views):
    times = evaluate(sampling, *span, views, **clip)
    assert times.shape[1:] == (clip["frames"],) and 1 <= len(times) <= views
    assert len(times) == views or sampling == "sequences"
    assert_inside(times, *span, clip["source_fps"])
    assert (np.diff(times) >= 0).all() and (np.diff(times[:, 0]) >= 0).all()


def assert_inside(times, start_s, end_s, source_fps):
    """At ``end_s`` the next frame begins; half a frame before it the last one is shown."""
    half_s = 0.5 / source_fps if source_fps else 0.001
    assert times.min() >= start_s and times.max() <= max(end_s - half_s, start_s) + 1e-9


@given(
    sampling=a_sampling,
    first=st.integers(0, 200_000),
    length=st.integers(1, 300),
    fps=st.sampled_from([24.0, 25.0, 29.97, 50.0, 60.0, 60000 / 1001]),
    frames=st.integers(1, 40),
    stride=st.integers(1, 16),
    seed=st.integers(0, 1000),
)
def test_frames_of_the_neighbours_are_never_shown(sampling, first, length, fps, frames, stride, seed):
    """A segment of ``length`` whole frames of a long video shows these frames, from its first to its last."""
    span = first / fps, (first + length) / fps
    clip = {"frames": frames, "stride": stride, "fps": 30.0, "source_fps": fps}
    views = evaluate(sampling, *span, 3, **clip)
    for times in (train(sampling, *span, seed, **clip), *views):
        shown = np.floor((times + 1e-6) * fps).astype(int)  # the frame that is on the screen
        assert first <= shown.min() and shown.max() < first + length


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("length_s", [0.0, 1e-9, 0.01, 0.04, 0.08])
def test_spans_of_a_frame_or_less(sampling, frames, length_s):
    """Fewer frames than a clip needs: the first is shown, and the last repeated."""
    for times in (
        train(sampling, 4.0, 4.0 + length_s, frames=frames),
        evaluate(sampling, 4.0, 4.0 + length_s, frames=frames)[0],
    ):
        shown = np.floor((times + 1e-6) * 25).astype(int)
        assert len(times) == frames and set(shown) <= {100, 101}
        if length_s <= 0.04:
            assert set(shown) == {100}


@pytest.mark.parametrize("sampling", ["dense", "sequences"])
def test_a_span_shorter_than_a_clip_repeats_its_last_frame(sampling):
    times = evaluate(sampling, 1.0, 1.2)[0]  # 5 frames of video, 8 x 2 wanted
    np.testing.assert_allclose(times, [1.0, 1.08, 1.16, 1.18, 1.18, 1.18, 1.18, 1.18])
    np.testing.assert_allclose(train(sampling, 1.0, 1.2), times)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_impossible_spans_and_clips_are_refused(sampling):
    with pytest.raises(ConfigError) as error:
        evaluate(sampling, 0.0, 1.0, views=0)
    assert (error.value.code, error.value.key) == ("out_of_range", "views")
    for span, message in [
        ((2.0, 1.0), "from 2.0 to 1.0 s"),
        ((math.nan, 1.0), "from nan to 1.0 s"),
        ((0.0, math.nan), "from 0.0 to nan s"),
        ((0.0, math.inf), "from 0.0 to inf s"),
    ]:
        with pytest.raises(ValueError, match=f"a span cannot reach {message}"):
            train(sampling, *span)
    for changes in ({"frames": 0}, {"stride": 0}, {"fps": math.inf}, {"fps": -1.0}):
        with pytest.raises(ValueError, match="a clip cannot have"):
            train(sampling, 0.0, 1.0, **changes)
    with pytest.raises(ValueError, match="a frame rate cannot be -1"):
        train(sampling, 0.0, 1.0, source_fps=-1.0)


# -- dense ------------------------------------------------------------------------------------------


def test_dense_clips_start_anywhere_that_fits():
    starts = [train("dense", 10.0, 12.0, seed)[0] for seed in range(400)]
    latest = 12.0 - 8 * 2 / 25
    assert min(starts) >= 10.0 and max(starts) <= latest
    # Uniform: no tenth of the range holds fewer than 15 or more than 70 of 400 (five deviations are 30).
    counts, _ = np.histogram(starts, bins=10, range=(10.0, latest))
    assert counts.min() > 15 and counts.max() < 70
    np.testing.assert_allclose(np.diff(train("dense", 10.0, 12.0)), 2 / 25)


def test_dense_views_start_where_pyslowfast_puts_them():
    latest = 12.0 - 8 * 2 / 25
    times = evaluate("dense", 10.0, 12.0, views=4)
    np.testing.assert_allclose(times[:, 0], 10.0 + (latest - 10.0) * np.array([0, 0.25, 0.5, 0.75]))
    np.testing.assert_allclose(evaluate("dense", 10.0, 12.0)[0, 0], (10.0 + latest) / 2)


def test_a_dense_clip_is_drawn_by_one_number():
    """What was drawn after the start (size, crop, mirror) is what it has always been."""
    rng, other = np.random.default_rng(3), np.random.default_rng(3)
    times = train_times("dense", 10.0, 12.0, **CLIP, rng=rng)
    np.testing.assert_allclose(times[0], 10.0 + other.random() * (2.0 - 8 * 2 / 25))
    assert rng.random() == other.random()


# -- uniform and segments ---------------------------------------------------------------------------


@given(frames=st.integers(1, 40), length=st.floats(1, 1000), views=st.integers(1, 9))
def test_uniform_views_cover_the_span_evenly(frames, length, views):
    times = evaluate("uniform", 5.0, 5.0 + length, views, frames=frames)
    together = np.sort(times.ravel())
    count = frames * views
    wanted = 5.0 + (np.arange(count) + 0.5) * length / count
    np.testing.assert_allclose(together, wanted.clip(max=5.0 + length - 0.02), rtol=1e-9)
    np.testing.assert_array_equal(times, evaluate("segments", 5.0, 5.0 + length, views, frames=frames))


def test_uniform_frames_share_one_phase_and_segments_draw_their_own():
    phases = {}
    for sampling in ("uniform", "segments"):
        times = np.stack([train(sampling, 10.0, 90.0, seed) for seed in range(300)])
        assert (np.floor((times - 10.0) / 10.0) == np.arange(8)).all()  # each in its own eighth
        phases[sampling] = (times - 10.0) / 10.0 % 1
        assert 0.4 < phases[sampling].mean() < 0.6 and phases[sampling].std() > 0.25
    np.testing.assert_allclose(phases["uniform"], phases["uniform"][:, :1] * np.ones(8), atol=1e-9)
    together = np.corrcoef(phases["segments"].T) - np.eye(8)
    assert np.abs(together).max() < 0.3  # independent: five deviations of 300 draws


def test_twenty_frames_of_a_segment():
    """The egocentric baseline: 20 uniformly spaced frames, whatever the length."""
    times = evaluate("uniform", 100.0, 104.0, frames=20)[0]
    np.testing.assert_allclose(times, 100.1 + 0.2 * np.arange(20))


# -- sequences --------------------------------------------------------------------------------------


@given(
    length=st.integers(1, 400),
    frames=st.integers(1, 20),
    stride=st.integers(1, 15),
    first=st.integers(0, 10_000),
    views=st.integers(1, 60),
)
def test_sequences_are_every_nth_frame_cut_without_overlap(length, frames, stride, first, views):
    """By the definition on frame numbers; too few frames for one sequence repeat the last."""
    clip = {"frames": frames, "stride": stride}
    times = evaluate("sequences", first / 25, (first + length) / 25, views, **clip)
    shown = np.floor((times + 1e-6) * 25).astype(int) - first
    picked = np.arange(0, length, stride)
    whole = picked[: len(picked) // frames * frames].reshape(-1, frames)
    if not len(whole):
        wanted = np.arange(frames) * stride
        assert shown.tolist() == [wanted.clip(max=length - 1).tolist()]
        return
    assert len(times) == min(views, len(whole))
    if views >= len(whole):
        np.testing.assert_array_equal(shown, whole)
    else:
        taken = [np.flatnonzero((whole == row).all(1)).item() for row in shown]
        gaps = np.diff(taken)
        assert (gaps >= 1).all() and (len(gaps) == 0 or gaps.max() - gaps.min() <= 1)
        assert abs((taken[0] + taken[-1]) / 2 - (len(whole) - 1) / 2) <= 1


def test_training_draws_each_sequence_alike():
    assume_five = {"frames": 4, "stride": 5}  # 100 frames, 20 of which are left: 5 sequences
    counts = dict.fromkeys([0.0, 0.8, 1.6, 2.4, 3.2], 0)
    for seed in range(500):
        times = train("sequences", 0.0, 4.0, seed, **assume_five)
        np.testing.assert_allclose(np.diff(times), 0.2)
        counts[round(float(times[0]), 6)] += 1
    assert min(counts.values()) > 55  # binomial(500, 1/5): five deviations are 45


def test_a_span_shows_its_frames_whatever_the_rate_of_its_source():
    """A source with fewer frames than are asked for repeats frames; the sequences stay as many."""
    assert len(evaluate("sequences", 0.0, 1.0, 9, frames=10, stride=1, fps=30.0, source_fps=10.0)) == 3


@given(span=a_span, clip=a_clip)
def test_views_of_different_counts_agree_on_the_whole(span, clip):
    """More views than sequences change nothing."""
    assume(clip["frames"] * clip["stride"] / clip["fps"] > 0.5)
    everything = evaluate("sequences", *span, 100_000, **clip)
    np.testing.assert_array_equal(everything, evaluate("sequences", *span, len(everything), **clip))
