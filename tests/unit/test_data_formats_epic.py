"""EPIC-KITCHENS-100 and -55: rows as in the official files, videos by time, frames and flow by number."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from annotation_files import refused, touch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kineray.data.importers.epic import from_epic
from kineray.video import open_video
from kineray.video.frames import parse_frames_uri

HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
    "stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)
# P01_01 is a video of EPIC-55 (60 frames a second), P02_101 came with EPIC-100 (50).
TRAIN = (
    "P01_01_0,P01,P01_01,00:00:01.089,00:00:00.14,00:00:03.37,8,202,open door,open,3,door,3,['door'],[3]\n"
    "P01_01_10,P01,P01_01,00:00:23.340,00:00:24.97,00:00:26.20,1498,1572,"
    "\"take plate, and 'cup'\",take,0,plate,2,\"['plate', 'cup']\",\"[2, 4]\"\n"
    "P02_101_0,P02,P02_101,00:00:02.851,00:00:02.86,00:00:03.87,143,193,wash plate,wash,2,plate,2,"
    "['plate'],[2]\n"
)
# No narration_timestamp; a pair that no training segment has; a time past the end of the video.
VALIDATION = (
    "P01_11_0,P01,P01_11,,00:00:00.00,00:00:01.89,1,113,take plate,take,0,plate,2,['plate'],[2]\n"
    "P18_02_1,P18,P18_02,00:10:00.000,00:30:20.50,00:30:21.75,109230,109305,open cup,open,3,cup,4,"
    "['cup'],[4]\n"
    "P18_02_2,P18,P18_02,00:10:01.000,01:00:00.5,01:00:01.125,216030,216067,wash door,wash,2,door,3,"
    "['door'],[3]\n"
)
TEST = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
    "stop_frame\n"
    "P33_101_0,P33,P33_101,00:00:02.851,00:00:02.86,00:00:03.87,143,193\n"
)
VERBS = (
    "id,key,instances,category\n"
    "0,take,\"['take', 'grab']\",retrieve\n1,put,['put'],leave\n2,wash,\"['wash', 'rinse']\",clean\n"
    "3,open,['open'],access\n"
)
NOUNS = (
    "id,key,instances,category\n"
    "0,tap,\"['tap', 'tap:water']\",appliances\n1,spoon,['spoon'],cutlery\n2,plate,['plate'],crockery\n"
    "3,cupboard,\"['cupboard', 'door']\",storage\n4,cup,['cup'],crockery\n"
)
TAIL = {
    "EPIC_100_tail_verbs.csv": "verb\n3\n1\n",
    "EPIC_100_tail_nouns.csv": "noun\n4\n3\n",
    "EPIC_100_unseen_participant_ids_validation.csv": "participant_id\nP18\nP32\n",
    "EPIC_100_unseen_participant_ids_test.csv": "participant_id\nP33\n",
}
VIDEOS = ("P01_01", "P02_101", "P01_11", "P18_02", "P33_101")

HEADER_55 = (
    "uid,participant_id,video_id,narration,start_timestamp,stop_timestamp,start_frame,stop_frame,verb,"
    "verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)
# 'open' is class 2 here and 3 in EPIC-100.
EPIC_55 = {
    "EPIC_train_action_labels.csv": HEADER_55
    + "0,P01,P01_01,open door,00:00:00.14,00:00:03.37,8,202,open,2,door,1,['door'],[1]\n"
    + "7,P01,P01_01,take cup,00:00:05.00,00:00:06.00,300,360,take,0,cup,2,['cup'],[2]\n",
    "EPIC_test_s1_timestamps.csv": "uid,participant_id,video_id,start_timestamp,stop_timestamp,start_frame,"
    "stop_frame\n1924,P01,P01_11,00:00:00.00,00:00:01.89,1,113\n",
    "EPIC_test_s2_timestamps.csv": "uid,participant_id,video_id,start_timestamp,stop_timestamp,start_frame,"
    "stop_frame\n2000,P18,P18_02,00:00:00.00,00:00:01.89,1,113\n",
    "EPIC_verb_classes.csv": "verb_id,class_key,verbs\n0,take,\"['take', 'grab']\"\n"
    "1,put,['put']\n2,open,['open']\n",
    "EPIC_noun_classes.csv": "noun_id,class_key,nouns\n0,Nothing,['Nothing']\n"
    "1,door,['door']\n2,cup,['cup']\n",
}


@pytest.fixture
def epic(tmp_path):
    """The annotations of EPIC-100 in a folder."""
    folder = tmp_path / "epic-kitchens-100-annotations"
    folder.mkdir()
    files = {
        "EPIC_100_train.csv": HEADER + TRAIN,
        "EPIC_100_validation.csv": HEADER + VALIDATION,
        "EPIC_100_test_timestamps.csv": TEST,
        "EPIC_100_verb_classes.csv": VERBS,
        "EPIC_100_noun_classes.csv": NOUNS,
        **TAIL,
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def epic_55(tmp_path):
    folder = tmp_path / "epic-kitchens-55-annotations"
    folder.mkdir()
    for name, text in EPIC_55.items():
        (folder / name).write_text(text)
    return folder


def by_id(manifest):
    return {sample.id: sample for sample in manifest}


def names(manifest, sample):
    return {
        head: manifest.vocabularies[head][label] if label >= 0 else None
        for head, label in sample.labels.items()
    }


# -- videos, by time --------------------------------------------------------------------------------


def test_segments_of_videos(epic, tmp_path):
    root = touch(tmp_path / "videos", *(f"{video[:3]}/videos/{video}.MP4" for video in VIDEOS))
    manifest = from_epic(epic, videos=root)
    assert manifest.name == "epic-kitchens-100"
    assert manifest.found == manifest.listed == {"train": 3, "val": 3, "test": 1}
    samples = by_id(manifest)
    first = samples["P01_01_0"]
    assert first.uri == str(root / "P01/videos/P01_01.MP4")
    assert (first.start_s, first.end_s, first.group) == (0.14, 3.37, "P01_01")
    # Minutes and hours count, as do decimals of any number; a time past the end stays: readers clamp it.
    assert (samples["P18_02_1"].start_s, samples["P18_02_1"].end_s) == (1820.5, 1821.75)
    assert (samples["P18_02_2"].start_s, samples["P18_02_2"].end_s) == (3600.5, 3601.125)


def test_the_five_heads_of_epic_100(epic, tmp_path):
    root = touch(tmp_path / "videos", *(f"{video}.MP4" for video in VIDEOS))
    manifest = from_epic(epic, videos=root)
    assert manifest.vocabularies == {
        "verb": ("take", "put", "wash", "open"),
        "noun": ("tap", "spoon", "plate", "cupboard", "cup"),
        # The pairs of the training segments, by verb and noun number.
        "action": ("take plate", "wash plate", "open cupboard"),
        "verb_category": ("access", "clean", "leave", "retrieve"),
        "noun_category": ("appliances", "crockery", "cutlery", "storage"),
    }
    got = {name: names(manifest, sample) for name, sample in by_id(manifest).items()}
    assert got["P01_01_10"] == {  # the first of two nouns
        "verb": "take",
        "noun": "plate",
        "action": "take plate",
        "verb_category": "retrieve",
        "noun_category": "crockery",
    }
    assert got["P01_11_0"]["action"] == "take plate"
    assert got["P18_02_1"] == {
        "verb": "open",
        "noun": "cup",
        "action": None,  # no training segment opens a cup
        "verb_category": "access",
        "noun_category": "crockery",
    }
    assert set(got["P33_101_0"].values()) == {None}  # a test file has no labels


def test_without_training_segments_the_actions_are_those_of_the_validation(epic, tmp_path):
    root = touch(tmp_path / "videos", *(f"{video}.MP4" for video in VIDEOS))
    manifest = from_epic(epic / "EPIC_100_validation.csv", videos=root)
    assert manifest.vocabularies["action"] == ("take plate", "wash cupboard", "open cup")
    assert manifest.labels("action").tolist() == [0, 2, 1]
    alone = from_epic(epic / "EPIC_100_test_timestamps.csv", videos=root)
    assert alone.vocabularies["action"] == () and alone.labels("verb").tolist() == [-1]


def test_tail_and_unseen_segments(epic, tmp_path):
    root = touch(tmp_path / "videos", *(f"{video}.MP4" for video in VIDEOS))
    manifest = from_epic(epic, videos=root)
    assert {name: set(sample.subsets) for name, sample in by_id(manifest).items()} == {
        "P01_01_0": set(),  # open and cupboard are in the tails, but only validation segments count
        "P01_01_10": set(),
        "P02_101_0": set(),
        "P01_11_0": set(),
        "P18_02_1": {"unseen", "tail_verb", "tail_noun", "tail_action"},
        "P18_02_2": {"unseen", "tail_noun", "tail_action"},  # verb OR noun
        "P33_101_0": {"unseen"},
    }
    assert manifest.subsets == {"tail_action": 2, "tail_noun": 2, "tail_verb": 1, "unseen": 3}
    # The list of the test split says nothing of the validation split.
    (epic / "EPIC_100_unseen_participant_ids_validation.csv").unlink()
    (epic / "EPIC_100_tail_verbs.csv").unlink()
    assert from_epic(epic, videos=root).subsets == {"tail_noun": 2, "unseen": 1}


def test_columns_are_read_by_name_and_lists_are_never_run(epic, tmp_path):
    rows = (
        "all_nouns,stop_frame,start_frame,noun_class,verb_class,video_id,participant_id,narration_id,"
        "stop_timestamp,start_timestamp\r\n"
        "\"[__import__('os').abort()]\",202,8,3,3,P01_01,P01,P01_01_0,00:00:03.37,00:00:00.14\r\n"
    )
    (epic / "EPIC_100_train.csv").write_bytes(b"\xef\xbb\xbf" + rows.encode())
    manifest = from_epic(epic / "EPIC_100_train.csv", videos=touch(tmp_path / "v", "P01_01.MP4"))
    assert names(manifest, manifest[0])["action"] == "open cupboard"
    assert (manifest[0].start_s, manifest[0].end_s) == (0.14, 3.37)


def test_segments_of_lost_videos_are_counted(epic, tmp_path):
    manifest = from_epic(epic, videos=touch(tmp_path / "videos", "P01_11.MP4"))
    assert manifest.found == {"val": 1}
    assert manifest.listed == {"val": 3, "train": 3, "test": 1}
    assert manifest.missing["train"] == ("P01_01_0", "P01_01_10", "P02_101_0")
    # What is lost does not change the classes.
    assert manifest.vocabularies["action"] == ("take plate", "wash plate", "open cupboard")


# -- frames and flow, by number ---------------------------------------------------------------------

RGB = (
    "{person}/rgb_frames/{video}/frame_{number:010d}.jpg",
    "{person}/{video}/frame_{number:010d}.jpg",
    "{video}/frame_{number:010d}.jpg",
    "{video}/img_{number:010d}.jpg",
)
FLOW = (
    ("{person}/flow_frames/{video}/{part}/frame_{number:010d}.jpg", "u", "v"),
    ("{person}/{video}/{part}/frame_{number:010d}.jpg", "u", "v"),
    ("{video}/{part}/frame_{number:010d}.jpg", "u", "v"),
    ("{video}/{part}_{number:010d}.jpg", "x", "y"),
)
SHORT = {  # one segment each in a video of EPIC-55 and in a later one
    "EPIC_100_train.csv": HEADER
    + "P01_01_0,P01,P01_01,00:00:01.089,00:00:00.14,00:00:00.30,8,18,open door,open,3,door,3,['door'],[3]\n"
    + "P02_101_0,P02,P02_101,,00:00:00.00,00:00:00.31,1,15,wash plate,wash,2,plate,2,['plate'],[2]\n",
    "EPIC_100_verb_classes.csv": VERBS,
    "EPIC_100_noun_classes.csv": NOUNS,
}


@pytest.fixture
def short(tmp_path):
    for name, text in SHORT.items():
        (tmp_path / name).write_text(text)
    return tmp_path / "EPIC_100_train.csv"


def frames(layout, video, count, **more):
    numbers = range(1, count + 1)
    return [layout.format(person=video[:3], video=video, number=number, **more) for number in numbers]


@pytest.mark.parametrize("layout", RGB)
def test_frames_by_number_at_60_or_50_a_second(short, tmp_path, layout, caplog):
    root = touch(tmp_path / "EPIC", *frames(layout, "P01_01", 18), *frames(layout, "P02_101", 15))
    manifest = from_epic(short, frames=root)
    old, new = manifest
    pattern = str(root / layout.format(person="P01", video="P01_01", number=0)).replace("0" * 10, "%010d")
    assert old.uri == f"{pattern}#fps=60"
    assert (old.start_s, old.end_s) == (7 / 60, 18 / 60)  # from the start of frame 8 to the end of frame 18
    assert new.uri.endswith("#fps=50") and (new.start_s, new.end_s) == (0.0, 15 / 50)
    assert manifest.missing == {} and caplog.text == ""


@pytest.mark.parametrize(("layout", "u", "v"), FLOW)
def test_flow_has_half_the_frames_in_old_videos(short, tmp_path, layout, u, v, caplog):
    root = tmp_path / "EPIC"
    for part in (u, v):
        touch(root, *frames(layout, "P01_01", 8, part=part), *frames(layout, "P02_101", 14, part=part))
    manifest = from_epic(short, flow=root)
    old, new = manifest
    assert old.uri.endswith("#fps=30&bound=25") and new.uri.endswith("#fps=50&bound=8")
    assert (old.start_s, old.end_s) == (7 / 60, 18 / 60) and (new.start_s, new.end_s) == (0.0, 15 / 50)
    components = parse_frames_uri(old.uri).components
    assert [Path(part % 1).is_file() for part in components] == [True, True]
    # Flow ends a little before the frames do: nothing is missing.
    assert manifest.missing == {} and caplog.text == ""


@given(st.integers(1, 10**6), st.sampled_from([(60, 2), (50, 1)]))
def test_a_frame_and_its_flow_are_at_the_same_time(frame, rates):
    """The official index of the flow of an RGB frame is (frame - 1) // stride + 1."""
    fps, stride = rates
    start_s = (frame - 1) / fps
    assert int(start_s * (fps // stride) + 1e-6) + 1 == (frame - 1) // stride + 1


def test_the_frames_that_a_sample_names_are_read(short, tmp_path):
    """Grey images that encode their number, read back at the times of the manifest."""
    folder = tmp_path / "EPIC" / "P01" / "rgb_frames" / "P01_01"
    folder.mkdir(parents=True)
    for number in range(1, 19):
        Image.fromarray(np.full((16, 16), number * 10, np.uint8)).save(folder / f"frame_{number:010d}.jpg")
    sample = from_epic(short, frames=tmp_path / "EPIC")[0]
    with open_video(sample.uri) as reader:
        times = [sample.start_s, sample.start_s + 1 / 60, sample.end_s - 1 / 60, sample.end_s]
        shown = reader.read(times).mean(axis=(1, 2, 3)) / 10
    assert np.allclose(shown, [8, 9, 18, 18], atol=0.3)


def test_videos_with_too_few_frames_are_named(short, tmp_path, caplog):
    layout = RGB[0]
    root = touch(tmp_path / "EPIC", *frames(layout, "P01_01", 17), *frames(layout, "P02_101", 15))
    manifest = from_epic(short, frames=root)
    assert len(manifest) == 2  # the last frame is repeated by the reader
    assert "1 of 2 videos have fewer frames than their segments: P01_01 (17 of 18)" in caplog.text
    caplog.clear()
    for number in range(7, 18):
        (root / layout.format(person="P01", video="P01_01", number=number)).unlink()
    (root / "P02").rename(root / "elsewhere")
    with refused("not_found", "epic-kitchens-100"):
        from_epic(short, frames=root)
    assert "1 of 2 videos have no folder of frames: P02_101" in caplog.text
    assert "P01_01 (6 of 18)" in caplog.text  # and its segment begins after them


def test_short_flow_is_named(short, tmp_path, caplog):
    layout, *parts = FLOW[0]
    root = tmp_path / "EPIC"
    for part, count in zip(parts, (8, 5), strict=True):  # v is cut short
        touch(root, *frames(layout, "P01_01", count, part=part))
    manifest = from_epic(short, flow=root)
    assert "P01_01 (5 of 9)" in caplog.text and "P02_101" in caplog.text
    assert [sample.id for sample in manifest] == ["P01_01_0"]


@pytest.mark.parametrize("kind", ["videos", "frames"])
def test_flow_beside_videos_or_frames(short, tmp_path, kind, caplog):
    """Times are those of the RGB frames; a clip without one of the two is missing."""
    root, flow = tmp_path / "RGB", tmp_path / "FLOW"
    if kind == "videos":
        touch(root, "P01_01.MP4", "P02_101.MP4")
    else:
        touch(root, *frames(RGB[0], "P01_01", 18), *frames(RGB[0], "P02_101", 15))
    layout, *parts = FLOW[0]
    for part in parts:
        touch(flow, *frames(layout, "P01_01", 9, part=part), *frames(layout, "P02_101", 15, part=part))
    both = from_epic(short, **{kind: root}, flow=flow)
    alone, of_flow = from_epic(short, **{kind: root}), from_epic(short, flow=flow)
    assert list(both) == [replace(rgb, flow=other.uri) for rgb, other in zip(alone, of_flow, strict=True)]
    assert both.missing == {} and caplog.text == ""
    (flow / "P02").rename(flow / "elsewhere")
    fewer = from_epic(short, **{kind: root}, flow=flow)
    assert list(fewer) == [both[0]] and fewer.missing == {"train": ("P02_101_0",)}
    assert "1 of 2 videos have no folder of frames: P02_101" in caplog.text


def test_frames_come_from_one_place(epic, tmp_path):
    for given_folders, code, key in (
        ({}, "not_set", "videos"),
        ({"videos": tmp_path, "frames": tmp_path}, "given_twice", "frames"),
        ({"videos": tmp_path, "frames": tmp_path, "flow": tmp_path}, "given_twice", "frames"),
        ({"frames": "s3://bucket/frames"}, "not_local", "s3://bucket/frames"),
    ):
        with refused(code, key):
            from_epic(epic, **given_folders)


# -- EPIC-55, and never both ------------------------------------------------------------------------


def test_epic_55(epic_55, tmp_path):
    root = touch(tmp_path / "videos", "P01_01.MP4", "P01_11.MP4", "P18_02.MP4")
    manifest = from_epic(epic_55, videos=root)
    assert manifest.name == "epic-kitchens-55"
    assert manifest.vocabularies == {
        "verb": ("take", "put", "open"),
        "noun": ("Nothing", "door", "cup"),
        "action": ("take cup", "open door"),
    }
    samples = by_id(manifest)
    assert set(samples) == {"0", "7", "1924", "2000"}
    assert names(manifest, samples["0"]) == {"verb": "open", "noun": "door", "action": "open door"}
    assert {sample.split for sample in manifest} == {"train", "test"}
    assert samples["1924"].subsets == {"seen"} and samples["2000"].subsets == {"unseen"}
    assert samples["1924"].labels == {"verb": -1, "noun": -1, "action": -1}


def test_the_editions_are_never_mixed(epic, epic_55, tmp_path):
    both = [epic / "EPIC_100_validation.csv", epic_55 / "EPIC_train_action_labels.csv"]
    with refused("mixed_formats", both[1]):
        from_epic(both, videos=tmp_path)
    # The files of classes must be of the same edition too.
    for name in ("verb", "noun"):
        (epic_55 / f"EPIC_{name}_classes.csv").rename(tmp_path / f"EPIC_{name}_classes.csv")
        (epic_55 / f"EPIC_100_{name}_classes.csv").write_text(VERBS)
    with refused("not_found", epic_55 / "EPIC_train_action_labels.csv") as error:
        from_epic(epic_55, videos=tmp_path)
    assert "EPIC_verb_classes.csv" in error.value.problem
    for name in ("verb", "noun"):
        (epic_55 / f"EPIC_{name}_classes.csv").write_text(VERBS)
    with refused("missing_column", epic_55 / "EPIC_verb_classes.csv"):
        from_epic(epic_55, videos=tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "code", "key"),
    [
        (",open,3,", ",open,4,", "out_of_range", "EPIC_100_train.csv:2"),
        (",open,3,", ",open,x,", "bad_line", "EPIC_100_train.csv:2"),
        ("00:00:03.37", "3.37", "bad_line", "EPIC_100_train.csv:2"),
        ("P01_01,", "P01_1,", "bad_name", "P01_1"),
        ("verb_class,", "verbclass,", "missing_column", "EPIC_100_train.csv"),
        ("video_id,", "video,", "missing_column", "EPIC_100_train.csv"),
        ("\n1,put", "\n5,put", "bad_line", "EPIC_100_verb_classes.csv:3"),
        ("3", "open", "bad_line", "EPIC_100_tail_verbs.csv:2"),
    ],
)
def test_wrong_files_are_refused(epic, tmp_path, old, new, code, key):
    name = key.partition(":")[0] if key.startswith("EPIC") else "EPIC_100_train.csv"
    text = (epic / name).read_text()
    assert old in text
    (epic / name).write_text(text.replace(old, new, 1))
    root = touch(tmp_path / "frames", "P01_01/frame_0000000001.jpg", "P01_11/frame_0000000001.jpg")
    with refused(code, epic / key if key.startswith("EPIC") else key):
        from_epic(epic, frames=root)


def test_pickles_are_refused(epic, tmp_path):
    (epic / "EPIC_100_train.pkl").write_bytes(b"\x80\x04")
    with refused("unsafe_file", epic / "EPIC_100_train.pkl"):
        from_epic(epic / "EPIC_100_train.pkl", videos=tmp_path)
    with refused("not_found", tmp_path / "other"):
        from_epic(touch(tmp_path / "other", "a.csv"), videos=tmp_path)
