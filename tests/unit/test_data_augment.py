"""Augmentation of clips: the same in all frames, a function of the sample's random stream, plug-ins too."""

import numpy as np
import pytest
from video_files import write_video

from kineray.config import (
    DataConfig,
    Experiment,
    Pieces,
    apply_overrides,
    from_yaml,
    load_plugins,
    to_yaml,
    variants,
)
from kineray.config.augment.base import ClipAugmentation
from kineray.config.augment.color_jitter import ColorJitterConfig
from kineray.data import Preprocessing, Sample
from kineray.data.clips.augment import augment_clip
from kineray.data.clips.decoding import ClipDecoder
from kineray.errors import ConfigError
from kineray.video.process import decode_process

SMALL = ["data.frames=8", "data.stride=1", "data.short_side=32,32", "data.crop=32", "data.eval_short_side=32"]
KEY = (0, 0, "a", 0, 0)

OWN = """
import kineray.config.augment.base
import numpy as np

class InvertConfig(kineray.config.augment.base.ClipAugmentation, type="invert"):
    strength: float = 1.0

    def augment(self, clip_thwc, rgb_channels, rng):
        assert "torch" not in __import__("sys").modules
        return np.uint8(self.strength * 255) - clip_thwc
"""


def a_clip(channels=3):
    return np.random.default_rng(0).integers(0, 256, (4, 6, 6, channels), np.uint8)


def jittered(clip_thwc, rgb_channels=3, seed=0, **fields):
    changed_thwc = clip_thwc.copy()
    pieces = Pieces(ColorJitterConfig(**fields))
    augment_clip(pieces, changed_thwc, rgb_channels, np.random.default_rng(seed))
    return changed_thwc


def decoded(preprocessing, video):
    sample = Sample("a", str(video), 0.0, None, {"action": 0}, "a", "train")
    with decode_process() as process:
        return ClipDecoder(process, preprocessing).train_clips(sample, [KEY], None).copy()


def preprocessing_of(*overrides):
    data = apply_overrides(Experiment(), [*SMALL, "data.eval_crop=32", *overrides]).data
    return Preprocessing.from_config(data, {"action": ("run",)})


def test_color_jitter_is_one_table_for_the_whole_clip_without_saturation_and_hue():
    clip_thwc = a_clip()
    changed_thwc = jittered(clip_thwc, saturation=0)
    assert (changed_thwc != clip_thwc).any()
    table = {}
    for before, after in zip(clip_thwc.ravel().tolist(), changed_thwc.ravel().tolist(), strict=True):
        assert table.setdefault(before, after) == after
    assert [table[value] for value in sorted(table)] == sorted(table.values())
    np.testing.assert_array_equal(jittered(clip_thwc, saturation=0), changed_thwc)
    assert (jittered(clip_thwc, seed=1) != changed_thwc).any()
    np.testing.assert_array_equal(jittered(clip_thwc, brightness=0, contrast=0, saturation=0), clip_thwc)


def test_color_jitter_has_the_ranges_of_its_configuration():
    clip_thwc = np.full((1, 2, 2, 3), 100, np.uint8)
    values = [int(jittered(clip_thwc, seed=seed, contrast=0, brightness=0.5).max()) for seed in range(200)]
    assert 50 <= min(values) < 60 and 140 < max(values) <= 150


@pytest.mark.parametrize(("channels", "rgb_channels"), [(5, 3), (2, 0)])
def test_flow_is_not_changed(channels, rgb_channels):
    clip_thwc = a_clip(channels)
    changed_thwc = jittered(clip_thwc, rgb_channels)
    np.testing.assert_array_equal(changed_thwc[..., rgb_channels:], clip_thwc[..., rgb_channels:])
    assert (changed_thwc != clip_thwc).any() == bool(rgb_channels)


def test_augmentations_are_part_of_the_experiment_but_not_stored_with_a_model():
    experiment = apply_overrides(Experiment(), ["data.augment.color_jitter.brightness=0.2"])
    assert experiment.data.augment["color_jitter"].brightness == 0.2
    assert from_yaml(to_yaml(experiment)) == experiment
    preprocessing = Preprocessing.from_config(experiment.data, {"action": ("run",)})
    assert preprocessing.augment == experiment.data.augment
    stored = Preprocessing.from_json(preprocessing.to_json())
    assert stored == Preprocessing.from_config(DataConfig(), {"action": ("run",)})


def test_training_clips_are_augmented_in_the_child_and_views_are_not(tmp_path):
    video = write_video(tmp_path / "a.mp4", frames=20)
    plain, changed = preprocessing_of(), preprocessing_of("data.augment.color_jitter.contrast=0.5")
    clips_nthwc = decoded(changed, video)
    assert (clips_nthwc != decoded(plain, video)).any()
    np.testing.assert_array_equal(clips_nthwc, decoded(changed, video))
    np.testing.assert_array_equal(changed.eval_views(video)[0], plain.eval_views(video)[0])


def test_an_augmentation_of_a_plugin_runs_in_the_child(tmp_path, own_plugins):
    video, plugin = write_video(tmp_path / "a.mp4", frames=20), tmp_path / "invert.py"
    plugin.write_text(OWN)
    load_plugins(str(plugin))
    own = preprocessing_of("data.augment.invert.strength=1.0")
    np.testing.assert_array_equal(255 - decoded(own, video), decoded(preprocessing_of(), video))
    plugin.write_text(OWN.replace("- clip_thwc", "- clip_thwc // 2"))
    load_plugins(str(plugin))
    again = preprocessing_of("data.augment.invert.strength=1.0")
    np.testing.assert_array_equal(255 - decoded(again, video), decoded(preprocessing_of(), video) // 2)


def test_every_augmentation_changes_clips_in_the_child_without_torch(tmp_path, own_plugins):
    """A plug-in that comes last sees that none has loaded torch."""
    video, plugin = write_video(tmp_path / "a.mp4", frames=20), tmp_path / "last.py"
    plugin.write_text(
        OWN.replace('"invert"', '"last"').replace("    strength", "    order = 99\n    strength")
    )
    names = [
        name for name, one in variants(ClipAugmentation).items() if one.__module__.startswith("kineray.")
    ]
    load_plugins(str(plugin))
    on = [f"data.augment.{name}=on" for name in [*names, "last"]]
    clips_nthwc = decoded(preprocessing_of(*on, "data.augment.random_erasing.probability=1"), video)
    assert clips_nthwc.shape == (1, 8, 32, 32, 3)
    assert (255 - clips_nthwc != decoded(preprocessing_of(), video)).any()


def test_an_augmentation_that_changes_the_shape_or_type_is_refused(tmp_path, own_plugins):
    plugin = tmp_path / "bad.py"
    plugin.write_text(OWN.replace("- clip_thwc", "- clip_thwc[:1]").replace('"invert"', '"bad"'))
    load_plugins(str(plugin))
    with pytest.raises(ConfigError) as error:
        decoded(preprocessing_of("data.augment.bad.strength=1"), write_video(tmp_path / "a.mp4", frames=20))
    assert (error.value.code, error.value.key) == ("wrong_shape", "data.augment.bad")
    assert "uint8 [8, 32, 32, 3] into uint8 [1, 32, 32, 3]" in str(error.value)


def test_one_that_fails_in_the_child_is_named_with_its_line(tmp_path, own_plugins):
    plugin = tmp_path / "bad.py"
    plugin.write_text(OWN.replace("- clip_thwc", "@ clip_thwc[0, 0, :2]").replace('"invert"', '"worse"'))
    load_plugins(str(plugin))
    with pytest.raises(ConfigError) as error:
        decoded(preprocessing_of("data.augment.worse.strength=1"), write_video(tmp_path / "a.mp4", frames=20))
    assert (error.value.code, error.value.key) == ("augmentation_failed", "data.augment.worse")
    line = 1 + OWN.splitlines().index("        return np.uint8(self.strength * 255) - clip_thwc")
    assert "ValueError: matmul" in error.value.problem
    assert f"({plugin}:{line} in augment)" in error.value.problem
