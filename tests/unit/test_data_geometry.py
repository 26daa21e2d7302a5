"""Which part of a frame a clip shows: the same geometry applies to pixels and boxes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop
from video_files import write_video

from kineray.config import Experiment, apply_overrides
from kineray.data import Preprocessing, Sample
from kineray.data.clips.geometry import Geometry, fixed_geometries, random_geometry, resized_geometry
from kineray.errors import ConfigError
from kineray.video import scaled_size


def drawn(height, width, box):
    """A frame with a white rectangle at ``box`` = x1, y1, x2, y2 in pixels: uint8 [H, W, 1]."""
    frame_hwc = np.zeros((height, width, 1), np.uint8)
    x1, y1, x2, y2 = box
    frame_hwc[y1:y2, x1:x2] = 255
    return frame_hwc


def nearest(pixels_hwc, height, width):
    rows = ((np.arange(height) + 0.5) * pixels_hwc.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * pixels_hwc.shape[1] / width).astype(int)
    return pixels_hwc[rows][:, columns]


def extent(clip_hwc):
    """The white rectangle of a clip, as fractions of its sides, or None."""
    rows, columns = np.nonzero(clip_hwc[..., 0])
    if not len(rows):
        return None
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / len(clip_hwc)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_rectangle_and_its_box_stay_together(data):
    height, width = data.draw(st.integers(24, 90)), data.draw(st.integers(24, 90))
    side = data.draw(st.integers(16, 40))
    x1, y1 = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
    box = x1, y1, data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    box_n4 = np.array([box]) / [width, height, width, height]
    frame_hwc = drawn(height, width, box)
    if data.draw(st.booleans()):  # as training cuts: out of the source, then scaled
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        if data.draw(st.booleans()):
            short_side = (side, side + data.draw(st.integers(0, 20)))
            geometry = random_geometry(height, width, short_side=short_side, side=side, flip=True, rng=rng)
        else:
            ranges = {"area": (0.08, 1.0), "aspect": (0.6, 2.0)}
            geometry = resized_geometry(height, width, **ranges, side=side, flip=True, rng=rng)
        left, top, columns, rows = geometry.source_box(height, width)
        clip_hwc = nearest(frame_hwc[top : top + rows, left : left + columns], side, side)
        clip_hwc = clip_hwc[:, ::-1] if geometry.mirror else clip_hwc
    else:  # as evaluation does: scaled, then cut
        crops = data.draw(st.sampled_from([1, 3]))
        geometry = data.draw(
            st.sampled_from(fixed_geometries(height, width, short_side=side + 3, side=side, crops=crops))
        )
        clip_hwc = geometry.cut(nearest(frame_hwc, *geometry.scaled))
    assert clip_hwc.shape == (side, side, 1)
    (moved,), (shown,) = geometry.boxes(box_n4)
    found = extent(clip_hwc)
    # A pixel of the source, or one of the clip where that is larger.
    scale = max(geometry.scaled[0] / height, geometry.scaled[1] / width, 1.0)
    tolerance = 1.01 * scale / side
    if found is None:
        assert not shown or (moved[2:] - moved[:2]).min() <= tolerance
    elif not shown:
        assert (found[2:] - found[:2]).min() <= tolerance
    else:
        np.testing.assert_allclose(moved, found, atol=tolerance)
    assert ((moved >= 0) & (moved <= 1)).all()


def test_boxes_are_cut_off_mirrored_and_left_out():
    # A frame of 100 x 200, scaled to 50 x 100; the clip is its right half but for 10 columns.
    geometry = Geometry(scaled=(50, 100), corner=(0, 40), side=50)
    boxes_n4 = np.array([[0.4, 0, 0.9, 1], [0, 0, 0.5, 0.5], [0.1, 0.1, 0.4, 0.2], [0.95, 0, 1, 1]])
    moved_n4, shown_n = geometry.boxes(boxes_n4)
    assert shown_n.tolist() == [True, True, False, False]
    np.testing.assert_allclose(moved_n4[:2], [[0, 0, 1, 1], [0, 0, 0.2, 0.5]])
    mirrored_n4, same_n = Geometry((50, 100), (0, 40), 50, mirror=True).boxes(boxes_n4)
    assert same_n.tolist() == shown_n.tolist()
    np.testing.assert_allclose(mirrored_n4[1], [0.8, 0, 1, 0.5])
    none_n4, none_n = geometry.boxes(np.empty((0, 4)))
    assert none_n4.shape == (0, 4) and none_n.shape == (0,)


@pytest.mark.parametrize(("height", "width"), [(48, 96), (96, 48), (48, 48)])
def test_three_crops_lie_along_the_long_side(height, width):
    centre = fixed_geometries(height, width, short_side=32, side=24, crops=1)
    three = fixed_geometries(height, width, short_side=32, side=24, crops=3)
    assert centre == three[1:2] and {one.scaled for one in three} == {scaled_size(height, width, 32)}
    long = 0 if height > width else 1
    assert three[0].corner[long] == 0
    assert three[2].corner[long] == three[0].scaled[long] - 24


def test_resized_crops_have_the_areas_and_aspects_of_torchvision():
    """Drawn by torchvision's own ``RandomResizedCrop``, which has the same distribution."""
    height, width, area, aspect = 240, 320, (0.08, 1.0), (3 / 4, 4 / 3)
    rng = np.random.default_rng(0)
    ours = np.array(
        [
            resized_geometry(
                height, width, area=area, aspect=aspect, side=112, flip=False, rng=rng
            ).source_box(height, width)
            for _ in range(2000)
        ]
    )
    image = torch.empty(3, height, width)
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(image, area, aspect) for _ in range(2000)])
    theirs = theirs[:, [1, 0, 3, 2]]  # top, left, height, width -> left, top, width, height
    assert (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= [width, height]).all()
    for measure in (
        lambda boxes: boxes[:, 2] * boxes[:, 3] / (height * width),
        lambda boxes: np.log(boxes[:, 2] / boxes[:, 3]),
        lambda boxes: boxes[:, 0] / width,
        lambda boxes: boxes[:, 1] / height,
    ):
        quantiles = [np.quantile(measure(boxes), [0.02, 0.25, 0.5, 0.75, 0.98]) for boxes in (ours, theirs)]
        np.testing.assert_allclose(*quantiles, atol=0.04)


def test_a_part_that_never_fits_is_the_largest_of_a_permitted_aspect():
    for (height, width), box in {(40, 100): (53.3, 40), (100, 40): (40, 53.3)}.items():
        geometry = resized_geometry(
            height,
            width,
            area=(1.0, 1.0),
            aspect=(3 / 4, 4 / 3),
            side=32,
            flip=False,
            rng=np.random.default_rng(0),
        )
        assert geometry.source_box(height, width)[2:] == pytest.approx(box, abs=1)


def test_clips_are_cut_by_area_if_it_is_given(tmp_path):
    clip = ["data.frames=8", "data.stride=1", "data.crop=24", "data.short_side=24,24"]
    cuts = {}
    for name, changes in {"square": [], "part": ["data.crop_area=0.1,0.3", "data.crop_aspect=0.5,2"]}.items():
        data = apply_overrides(Experiment(), [*clip, *changes]).data
        preprocessing = Preprocessing.from_config(data, {"action": ("run",)})
        assert Preprocessing.from_json(preprocessing.to_json()) == preprocessing
        geometries = [preprocessing.train_geometry(60, 80, np.random.default_rng(seed)) for seed in range(50)]
        boxes = np.array([geometry.source_box(60, 80) for geometry in geometries])
        cuts[name] = boxes[:, 2] * boxes[:, 3] / (60 * 80)
        video = write_video(tmp_path / "a.mp4", frames=10)
        sample = Sample("a", str(video), 0.0, None, {"action": 0}, "a", "train")
        clips = preprocessing.train_clips(video, sample, [np.random.default_rng(0)])
        assert clips.shape == (1, 8, 24, 24, 3)
    assert np.allclose(cuts["square"], 0.75, atol=0.01)
    assert cuts["part"].min() < 0.14 and 0.25 < cuts["part"].max() < 0.33
    for changes in (["data.crop_area=0.5,0.1"], ["data.crop_area=0,1"], ["data.crop_aspect=2,1"]):
        with pytest.raises(ConfigError) as error:
            apply_overrides(Experiment(), changes)
        assert error.value.key.startswith("data.crop_")
