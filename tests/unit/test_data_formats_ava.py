"""AVA and AVA-Kinetics: rows to persons, label maps, key frames in films and in clips of YouTube videos."""

import pytest
from annotation_files import refused, touch

from kineray.data import load_manifest, save_manifest
from kineray.data.importers.ava import EVALUATED_IDS, from_ava
from kineray.data.importers.ava_kinetics import from_ava_kinetics
from kineray.data.manifest.samples import BoxLabel

FILM = "-5KQ66BBWC4"
# No header; timestamps with a leading zero; a person is one row for each action.
TRAIN = (
    f"{FILM},0902,0.077,0.151,0.283,0.811,80,1\r\n"
    f"{FILM},0902,0.077,0.151,0.283,0.811,9,1\r\n"
    f"{FILM},0902,0.226,0.032,0.366,0.497,12,0\r\n"
    f"{FILM},0903,0.226,0.032,0.366,0.497,12,0\r\n"
    "1j20qq1JyX4,1798,0.002,0.118,0.714,0.977,12,1\r\n"
)
VAL = "_a-b_c-d_e0,0902,0.1,0.2,0.3,0.4,79,14\n"
# The full map of all 80 actions has labels, the map of those that count has items.
FULL = "".join(
    f'label {{\n  name: "action {number} (e.g., a thing)"\n  label_id: {number}\n'
    f"  label_type: PERSON_MOVEMENT\n}}\n"
    for number in range(1, 81)
)
ACTIVITYNET = "".join(
    f'item {{\n  name: "action {number} (e.g., a thing)"\n  id: {number}\n}}\n' for number in EVALUATED_IDS
)


@pytest.fixture
def ava(tmp_path):
    folder = tmp_path / "ava_v2.2"
    folder.mkdir()
    files = {
        "ava_train_v2.2.csv": TRAIN,
        "ava_val_v2.2.csv": VAL,
        "ava_train_excluded_timestamps_v2.2.csv": f"{FILM},0903\n",
        "ava_action_list_v2.2.pbtxt": FULL,
        "ava_action_list_v2.2_for_activitynet_2019.pbtxt": ACTIVITYNET,
        "ava_included_timestamps_v2.2.txt": "0902\n0903\n",
    }
    for name, text in files.items():
        (folder / name).write_bytes(text.encode())
    touch(tmp_path / "films", f"{FILM}.mkv", "train/1j20qq1JyX4.mp4", "val/_a-b_c-d_e0.webm")
    return folder


def test_the_sixty_evaluated_actions():
    assert len(EVALUATED_IDS) == len(set(EVALUATED_IDS)) == 60
    left_out = {*range(1, 81)} - {*EVALUATED_IDS}
    assert left_out == {2, 16, 18, 19, 21, 23, 25, 31, 32, 33, 35, 39, 40, 42, 44, 50, 53, 55, 71, 75}


def test_rows_become_persons_with_several_actions(ava, tmp_path):
    manifest = from_ava(ava, tmp_path / "films")
    assert manifest.name == "ava-v2.2"
    assert [sample.id for sample in manifest] == [f"{FILM}/0902", "1j20qq1JyX4/1798", "_a-b_c-d_e0/0902"]
    first = manifest[0]
    assert first.boxes == (
        BoxLabel(0.077, 0.151, 0.283, 0.811, (8, 79), 1),  # ids from 1, indices from 0
        BoxLabel(0.226, 0.032, 0.366, 0.497, (11,), 0),
    )
    assert first.labels == {"action": -1}
    assert (first.uri, first.group, first.split) == (str(tmp_path / "films" / f"{FILM}.mkv"), FILM, "train")
    assert manifest.split("val")[0].boxes[0].labels == (78,)
    names = manifest.vocabularies["action"]
    assert len(names) == 80 and names[11] == "action 12 (e.g., a thing)"
    assert manifest.evaluated == {"action": tuple(number - 1 for number in EVALUATED_IDS)}
    save_manifest(manifest, tmp_path / "manifest.parquet")
    assert load_manifest(tmp_path) == manifest


def test_excluded_key_frames_are_left_out(ava, tmp_path):
    assert f"{FILM}/0903" not in {sample.id for sample in from_ava(ava, tmp_path / "films")}
    (ava / "ava_train_excluded_timestamps_v2.2.csv").write_text(f"1j20qq1JyX4,1798\n{FILM},902\n")
    manifest = from_ava(ava, tmp_path / "films")
    assert [sample.id for sample in manifest] == [f"{FILM}/0903", "_a-b_c-d_e0/0902"]
    assert manifest.listed == {"train": 1, "val": 1}


def test_what_belongs_to_a_file_is_found_beside_it(ava, tmp_path):
    """With only the CSV files named, the exclusions of their version are used too."""
    (ava / "ava_val_excluded_timestamps_v2.1.csv").write_text("_a-b_c-d_e0,0902\n")
    (ava / "ava_action_list_v2.1_for_activitynet_2018.pbtxt").write_text('item { name: "old" id: 1 }')
    named = from_ava([ava / "ava_train_v2.2.csv", ava / "ava_val_v2.2.csv"], tmp_path / "films")
    assert [sample.id for sample in named] == [f"{FILM}/0902", "1j20qq1JyX4/1798", "_a-b_c-d_e0/0902"]
    assert named.vocabularies["action"][0] == "action 1 (e.g., a thing)"


@pytest.mark.parametrize(("offset", "times"), [(0.0, [902, 1798, 902]), (900.0, [2, 898, 2])])
def test_key_frames_are_times_in_the_local_file(ava, tmp_path, offset, times):
    manifest = from_ava(ava, tmp_path / "films", offset_s=offset)
    assert [sample.start_s for sample in manifest] == [sample.end_s for sample in manifest] == times
    with refused("out_of_range", ava / "ava_train_v2.2.csv:1") as error:
        from_ava(ava, tmp_path / "films", offset_s=1000.0)
    assert f"{FILM}/0902 is before the offset of 1000 s" in str(error.value)


def test_lost_films_are_named_by_their_key_frames(ava, tmp_path):
    (tmp_path / "films" / f"{FILM}.mkv").unlink()
    manifest = from_ava(ava, tmp_path / "films")
    assert manifest.found == {"train": 1, "val": 1} and manifest.listed == {"train": 2, "val": 1}
    assert manifest.missing == {"train": (f"{FILM}/0902",)}


@pytest.mark.parametrize(
    "kept", ["ava_action_list_v2.2.pbtxt", "ava_action_list_v2.2_for_activitynet_2019.pbtxt"]
)
def test_one_label_map_is_enough(ava, tmp_path, kept):
    for path in ava.glob("*.pbtxt"):
        if path.name != kept:
            path.unlink()
    manifest = from_ava(ava, tmp_path / "films")
    assert len(manifest.vocabularies["action"]) == 80 and len(manifest.evaluated["action"]) == 60
    assert manifest.vocabularies["action"][79] == "action 80 (e.g., a thing)"
    assert manifest.vocabularies["action"][1].startswith("action 2")  # not in the map of 60


def test_label_maps_of_other_sets(ava, tmp_path):
    for path in ava.glob("*.pbtxt"):
        path.unlink()
    # As some copies of v2.1 have it: no line breaks between the fields.
    entries = [
        f'item {{ name: "{name}" id: {n} }}' for n, name in enumerate(("run", "fall {id: 7}"), start=1)
    ]
    (ava / "two.pbtxt").write_text("\n".join(entries).replace("fall {id: 7}", "fall, id: 7"))
    (ava / "ava_train_v2.2.csv").write_text(f"{FILM},0902,0,0,1,1,2,3\n")
    manifest = from_ava([ava / "ava_train_v2.2.csv", ava / "two.pbtxt"], tmp_path / "films")
    assert manifest.vocabularies == {"action": ("run", "fall, id: 7")} and manifest.evaluated == {}
    assert manifest[0].boxes[0].labels == (1,)


@pytest.mark.parametrize(
    ("row", "code", "problem"),
    [
        (f"{FILM},0902,0.036,0.098,0.550,0.979,,0.995518", "bad_line", "0.995518"),
        (f"{FILM},0902,0.036,0.098,0.550,0.979,12,1.0", "bad_line", "a score"),
        (f"{FILM},0902,36,98,550,979,12,1", "out_of_range", "36, 98, 550, 979"),
        (f"{FILM},0902,0,0,1,1,81,1", "out_of_range", "81 is not one of the 80"),
        (f"{FILM},0902,0,0,1,1,0,1", "out_of_range", "0 is not one of the 80"),
        (f"{FILM},0902,0,0,1,1,run,1", "bad_line", "'run'"),
        (f"{FILM},0902,0,nan,1,1,12,1", "bad_line", "'nan'"),
        (f"{FILM},0902,0,0,1", "bad_line", "5 values"),
        ("video_id,middle_frame_timestamp", "bad_line", "'middle_frame_timestamp'"),
    ],
)
def test_wrong_rows_are_refused(ava, tmp_path, row, code, problem):
    (ava / "ava_train_v2.2.csv").write_text(f"\n{row}\n")
    with refused(code, ava / "ava_train_v2.2.csv:2") as error:
        from_ava(ava, tmp_path / "films")
    assert problem in error.value.problem


def test_a_box_whose_corners_are_exchanged_is_refused(ava, tmp_path):
    (ava / "ava_train_v2.2.csv").write_text(f"{FILM},0902,0.5,0,0.25,1,12,1\n")
    with refused("out_of_range", "ava-v2.2") as error:
        from_ava(ava, tmp_path / "films")
    assert f"{FILM}/0902 has the box 0.5, 0, 0.25, 1" in str(error.value)


def test_wrong_files_are_refused(ava, tmp_path):
    csv, pbtxt = ava / "ava_train_v2.2.csv", ava / "ava_action_list_v2.2.pbtxt"
    with refused("not_found", pbtxt):
        from_ava(pbtxt, tmp_path / "films")
    (ava / "ava_val_v2.1.csv").write_text(VAL)
    with refused("mixed_formats", ava / "ava_val_v2.1.csv"):
        from_ava([csv, ava / "ava_val_v2.1.csv", pbtxt], tmp_path / "films")
    pbtxt.write_text("run\nfall\n")
    with refused("empty", pbtxt):
        from_ava([csv, pbtxt], tmp_path / "films")
    pbtxt.write_text('item { name: "run" }')
    with refused("bad_line", pbtxt):
        from_ava([csv, pbtxt], tmp_path / "films")
    for path in ava.glob("*.pbtxt"):
        path.unlink()
    with refused("not_found", csv) as error:
        from_ava(csv, tmp_path / "films")
    assert "ava_action_list_v2.2.pbtxt" in error.value.remedy
    (ava / "ava_val_v2.1.csv").rename(ava / "kinetics_val_v1.0.csv")
    with refused("other_format", ava / "kinetics_val_v1.0.csv"):
        from_ava(ava, tmp_path / "films")


# -- AVA-Kinetics -----------------------------------------------------------------------------------

# No person ids; the last row is a key frame in which nobody does anything.
KINETICS = (
    "_a_b-c_d_e0,84.5,0.1,0.2,0.3,0.4,12\n"
    "_a_b-c_d_e0,84.5,0.1,0.2,0.3,0.4,80\n"
    "_a_b-c_d_e0,84.5,0.5,0.2,0.8,0.9,80\n"
    "0123456789a,7.25,0.1,0.2,0.3,0.4,1\n"
    "nobody_here,3.000001\n"
)


@pytest.fixture
def ava_kinetics(ava, tmp_path):
    """Both parts, as in the archive. One id has three clips, of which two hold the key frame."""
    (ava / "kinetics_train_v1.0.csv").write_text(KINETICS)
    (ava / "kinetics_test_v1.0.csv").write_text("lost_video1,5.0\n")
    touch(
        tmp_path / "clips",
        "_a_b-c_d_e0_000070_000080.mp4",
        "train/_a_b-c_d_e0_000075_000085.mp4",
        "train/_a_b-c_d_e0_000080_000090.mp4",
        "a class/0123456789a_000000_000010.mp4",
        "nobody_here_000000_000010.mp4",
    )
    return ava


def test_key_frames_of_kinetics_are_looked_up_in_their_clips(ava_kinetics, tmp_path):
    files = [*ava_kinetics.glob("kinetics_*.csv"), *ava_kinetics.glob("*.pbtxt")]
    manifest = from_ava_kinetics(files, tmp_path / "clips")
    assert manifest.name == "ava-kinetics (kinetics)"
    assert manifest.listed == {"train": 3, "test": 1} and manifest.missing == {
        "test": ("lost_video1/5.000000",)
    }
    first, second, third = manifest
    assert first.id == "_a_b-c_d_e0/84.500000"
    # 84.5 s of the YouTube video: 4.5 s into the clip from 80 s on, not the last half second of another.
    assert first.uri.endswith("_a_b-c_d_e0_000080_000090.mp4")
    assert first.start_s == first.end_s == 4.5
    assert first.group == "_a_b-c_d_e0"
    assert first.boxes == (
        BoxLabel(0.1, 0.2, 0.3, 0.4, (11, 79), None),
        BoxLabel(0.5, 0.2, 0.8, 0.9, (79,), None),
    )
    assert (second.start_s, second.uri) == (
        7.25,
        str(tmp_path / "clips/a class/0123456789a_000000_000010.mp4"),
    )
    assert (third.id, third.boxes, third.start_s) == ("nobody_here/3.000001", (), 3.000001)


def test_both_parts_make_one_manifest(ava_kinetics, tmp_path):
    touch(tmp_path / "clips", f"films/{FILM}.mp4", "films/1j20qq1JyX4.mp4", "films/_a-b_c-d_e0.mp4")
    manifest = from_ava_kinetics(ava_kinetics, tmp_path / "clips", offset_s=900.0)
    assert manifest.name == "ava-kinetics"
    assert manifest.found == {"train": 5, "val": 1}
    times = {sample.id: sample.start_s for sample in manifest}
    assert times[f"{FILM}/0902"] == 2 and times["_a_b-c_d_e0/84.500000"] == 4.5  # films alone have the offset


def test_a_key_frame_outside_every_clip_is_missing(ava_kinetics, tmp_path):
    (ava_kinetics / "kinetics_train_v1.0.csv").write_text(KINETICS + "_a_b-c_d_e0,90.5,0.1,0.2,0.3,0.4,12\n")
    files = [ava_kinetics / "kinetics_train_v1.0.csv", ava_kinetics / "ava_action_list_v2.2.pbtxt"]
    manifest = from_ava_kinetics(files, tmp_path / "clips")
    assert manifest.missing == {"train": ("_a_b-c_d_e0/90.500000",)}
