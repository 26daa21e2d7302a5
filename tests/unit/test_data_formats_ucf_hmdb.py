"""UCF-101 and HMDB51: their lists as they are distributed."""

import pytest
from annotation_files import refused, touch

from kineray.data.importers.hmdb51 import from_hmdb51
from kineray.data.importers.ucf101 import from_ucf101
from kineray.errors import StorageError

CLASSES = ("ApplyEyeMakeup", "HandstandPushups", "YoYo")


# -- UCF-101 ----------------------------------------------------------------------------------------


def ucf_clip(directory, group, clip):
    prefix = "HandStandPushups" if directory == "HandstandPushups" else directory
    return f"{directory}/v_{prefix}_g{group:02d}_c{clip:02d}"


@pytest.fixture
def ucf(tmp_path):
    """Groups 1 to 5, those of the split's number in its test list. CRLF; labels from 1, none in tests."""
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    text = "".join(f"{number} {name}\r\n" for number, name in enumerate(CLASSES, start=1))
    (lists / "classInd.txt").write_bytes(text.encode())
    clips = [(name, group, clip) for name in CLASSES for group in range(1, 6) for clip in (1, 2)]
    for split in (1, 2, 3):
        train = "".join(
            f"{ucf_clip(*clip)}.avi {CLASSES.index(clip[0]) + 1}\r\n" for clip in clips if clip[1] != split
        )
        test = "".join(f"{ucf_clip(*clip)}.avi\r\n" for clip in clips if clip[1] == split)
        (lists / f"trainlist{split:02d}.txt").write_bytes(train.encode())
        (lists / f"testlist{split:02d}.txt").write_bytes(test.encode())
    return lists, [ucf_clip(*clip) for clip in clips]


@pytest.mark.parametrize("layout", ["UCF-101/{path}.avi", "{path}.mp4", "{name}.avi", "test/{name}.MP4"])
def test_ucf101(ucf, tmp_path, layout):
    lists, clips = ucf
    root = tmp_path / "videos"
    touch(root, *(layout.format(path=clip, name=clip.partition("/")[2]) for clip in clips))
    manifest = from_ucf101(lists, root)
    assert manifest.name == "ucf101-split1"
    assert manifest.vocabularies == {"action": CLASSES}
    assert manifest.found == {"train": 24, "test": 6} and manifest.missing == {}
    assert {sample.id for sample in manifest} == set(clips)
    for sample in manifest:
        # The directory is the class, in the test list too; HandstandPushups/v_HandStandPushups_* is the trap.
        assert CLASSES[sample.labels["action"]] == sample.id.partition("/")[0]
        assert (sample.start_s, sample.end_s) == (0.0, None)
        assert not sample.uri.endswith("\r")
    first = next(sample for sample in manifest if sample.id == "HandstandPushups/v_HandStandPushups_g01_c02")
    assert (first.split, first.group) == ("test", "HandstandPushups/g01")


@pytest.mark.parametrize("split", [1, 2, 3])
def test_no_group_of_ucf101_is_in_train_and_test(ucf, tmp_path, split):
    lists, clips = ucf
    touch(tmp_path / "videos", *(f"{clip}.avi" for clip in clips))
    manifest = from_ucf101(lists, tmp_path / "videos", split=split)
    assert manifest.name == f"ucf101-split{split}"
    groups = {name: {sample.group for sample in manifest.split(name)} for name in ("train", "test")}
    assert groups["test"] == {f"{name}/g{split:02d}" for name in CLASSES}
    assert not groups["train"] & groups["test"]
    with (lists / f"testlist{split:02d}.txt").open("ab") as file:
        file.write(b"YoYo/v_YoYo_g04_c01.avi\r\n")
    with refused("leak", lists / f"testlist0{split}.txt:7") as error:
        from_ucf101(lists, tmp_path / "videos", split=split)
    assert "YoYo/g04" in error.value.problem


def test_lost_videos_of_ucf101_are_named(ucf, tmp_path):
    lists, clips = ucf
    touch(tmp_path / "videos", *(f"{clip}.avi" for clip in clips[1:]))
    manifest = from_ucf101(lists, tmp_path / "videos")
    assert manifest.listed == {"train": 24, "test": 6} and manifest.found == {"train": 24, "test": 5}
    assert manifest.missing == {"test": (f"{clips[0]}.avi",)}


@pytest.mark.parametrize(
    ("key", "text", "code"),
    [
        ("classInd.txt:1", "0 ApplyEyeMakeup\n", "bad_line"),
        ("classInd.txt", "", "empty"),
        ("trainlist01.txt:1", "YoYo/v_YoYo_g01_c01.avi 2\n", "wrong_labels"),
        ("testlist01.txt:2", "\nYo/v_YoYo_g01_c01.avi\n", "unknown_value"),
        ("testlist01.txt:1", "v_YoYo_g01_c01.avi\n", "unknown_value"),
    ],
)
def test_wrong_lists_of_ucf101_are_refused(ucf, tmp_path, key, text, code):
    lists, clips = ucf
    (lists / key.partition(":")[0]).write_text(text)
    with refused(code, lists / key):
        from_ucf101(lists, touch(tmp_path / "videos", *(f"{clip}.avi" for clip in clips)))


def test_the_lists_of_ucf101_must_be_there(tmp_path):
    with pytest.raises(StorageError) as error:
        from_ucf101(tmp_path, tmp_path)
    assert f"{tmp_path}/classInd.txt" in str(error.value)


# -- HMDB51 -----------------------------------------------------------------------------------------

HMDB = {
    "brush_hair": (
        "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 ",
        "April_09_brush_hair_u_nm_np1_ba_goo_1.avi 1 ",
        "#20_Rhythm_&_(clap)!_[x];_brush_hair_f_cm_np2_le_med_0.avi 2 ",
        "unused_brush_hair_f_cm_np2_le_med_0.avi 0 ",
    ),
    "sword": ("Run_Lola_sword_sword_f_cm_np1_fr_bad_3.avi 2 ",),
    "Zorro": ("name without the class 2.avi 1 ", "lost_Zorro_f_cm_np1_fr_bad_3.avi 2 "),
}


def hmdb_lists(folder, lists=HMDB, split=1):
    folder.mkdir(exist_ok=True)
    for name, lines in lists.items():
        (folder / f"{name}_test_split{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("layout", ["{name}/{file}", "hmdb51_org/{name}/{file}", "{file}"])
def test_hmdb51(tmp_path, layout):
    lists = hmdb_lists(tmp_path / "lists")
    hmdb_lists(lists, {name: ["other_split.avi 1 "] for name in HMDB}, split=2)
    files = [(name, line.rsplit(None, 1)[0]) for name, lines in HMDB.items() for line in lines]
    root = tmp_path / "videos"
    touch(root, *(layout.format(name=n, file=file) for n, file in files if not file.startswith("lost")))
    manifest = from_hmdb51(lists, root)
    assert manifest.name == "hmdb51-split1"
    assert manifest.vocabularies == {"action": ("Zorro", "brush_hair", "sword")}  # alphabetical, no classInd
    assert manifest.found == {"train": 3, "test": 2} and manifest.listed == {"train": 3, "test": 3}
    assert manifest.missing == {"test": ("Zorro/lost_Zorro_f_cm_np1_fr_bad_3.avi",)}
    got = {sample.id: (sample.labels["action"], sample.split, sample.group) for sample in manifest}
    assert got == {
        "Zorro/name without the class 2": (0, "train", "Zorro/name without the class 2"),
        "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0": (1, "train", "April_09"),
        "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_1": (1, "train", "April_09"),
        "brush_hair/#20_Rhythm_&_(clap)!_[x];_brush_hair_f_cm_np2_le_med_0": (
            1,
            "test",
            "#20_Rhythm_&_(clap)!_[x];",
        ),
        "sword/Run_Lola_sword_sword_f_cm_np1_fr_bad_3": (2, "test", "Run_Lola_sword"),
    }


def test_the_same_file_name_in_two_classes_of_hmdb51(tmp_path):
    lists = hmdb_lists(tmp_path / "lists", {name: ["a clip.avi 1 "] for name in ("kick", "hit")})
    root = touch(tmp_path / "videos", "kick/a clip.avi", "hit/a clip.avi")
    manifest = from_hmdb51(lists, root)
    assert {sample.id: sample.uri for sample in manifest} == {
        f"{name}/a clip": str(root / name / "a clip.avi") for name in ("kick", "hit")
    }


@pytest.mark.parametrize(
    ("line", "code"), [("a.avi 3 ", "bad_line"), ("a.avi", "bad_line"), ("a.avi 0 ", "empty")]
)
def test_wrong_lists_of_hmdb51_are_refused(tmp_path, line, code):
    lists = hmdb_lists(tmp_path / "lists", {"a": [line]})
    with refused(code, lists / "a_test_split1.txt:1" if code == "bad_line" else "hmdb51-split1"):
        from_hmdb51(lists, touch(tmp_path / "videos", "a/a.avi"))
    with refused("not_found", lists):
        from_hmdb51(lists, tmp_path / "videos", split=2)
