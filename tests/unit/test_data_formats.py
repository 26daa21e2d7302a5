"""Importers: layouts and annotation files as they are distributed."""

import pytest
from annotation_files import refused, touch

from kineray.data import (
    load_manifest,
    save_manifest,
    synthesize,
)
from kineray.data.importers.folders import from_folders
from kineray.data.importers.kinetics import clip_span, from_kinetics_csv
from kineray.data.importers.lists import from_list
from kineray.data.importers.mini_kinetics import from_mini_kinetics
from kineray.errors import StorageError

HEADER = "label,youtube_id,time_start,time_end,split\n"


def labels(manifest):
    classes = manifest.vocabularies["action"]
    return {
        sample.id: classes[sample.labels["action"]] if sample.labels["action"] >= 0 else None
        for sample in manifest
    }


# -- folders ----------------------------------------------------------------------------------------


def test_split_folders(tmp_path):
    touch(
        tmp_path,
        "train/b c/1.mp4",
        "train/a/2.MKV",
        "validation/a/3.mp4",
        "test/a/4.avi",
        "train/a/notes.txt",
    )
    manifest = from_folders(tmp_path)
    assert manifest.vocabularies == {"action": ("a", "b c")}
    assert labels(manifest) == {
        "train/b c/1": "b c",
        "train/a/2": "a",
        "validation/a/3": "a",
        "test/a/4": "a",
    }
    assert manifest.found == manifest.listed == {"train": 2, "val": 1, "test": 1}
    assert manifest.name == tmp_path.name


def test_class_folders_hold_out_a_fixed_share(tmp_path):
    touch(tmp_path / "set", *(f"{name}/{index:02}.mp4" for name in ("run", "jump") for index in range(10)))
    manifest = from_folders(tmp_path / "set")
    assert manifest.found == {"train": 16, "val": 4}
    assert sorted(labels(manifest.split("val")).values()) == ["jump", "jump", "run", "run"]
    assert from_folders(tmp_path / "set") == manifest
    # The held-out clips follow the names alone: elsewhere they are the same.
    touch(tmp_path / "copy", *(f"{name}/{index:02}.mp4" for name in ("run", "jump") for index in range(10)))
    assert labels(from_folders(tmp_path / "copy").split("val")) == labels(manifest.split("val"))
    assert from_folders(tmp_path / "set", val_share=0.5).found == {"train": 10, "val": 10}
    assert from_folders(tmp_path / "set", val_share=0).found == {"train": 20}
    touch(tmp_path / "one", "run/1.mp4", "jump/1.mp4")
    assert from_folders(tmp_path / "one").found == {"train": 2}  # a class keeps at least one clip


@pytest.mark.parametrize(
    "names", [[], ["1.mp4"], ["a/1.mp4", "train/a/2.mp4"], ["x/a/1.mp4"], ["train/a/b/1.mp4"]]
)
def test_other_layouts_are_refused(tmp_path, names):
    touch(tmp_path, *names)
    with refused("wrong_layout" if names else "empty", tmp_path) as error:
        from_folders(tmp_path)
    assert "<split>/<class>/<video> or <class>/<video>" in str(error.value)


def test_a_synthetic_set_is_a_folder_of_class_folders(tmp_path):
    made = load_manifest(synthesize(tmp_path / "set", train=4, val=4, size=32, seconds=0.2))
    imported = from_folders(tmp_path / "set")
    assert {s.id: s.uri for s in imported} == {s.id: s.uri for s in made}
    assert labels(imported) == labels(made)
    save_manifest(imported, tmp_path / "set" / "again.parquet")
    assert load_manifest(tmp_path / "set" / "again.parquet") == imported


# -- Kinetics ---------------------------------------------------------------------------------------

ROWS = (
    "washing dishes,-a_b_c,5,15,train\n"
    '"tossing coin, or not",zzzzzzzzzzz,100,110,train\n'
    "abseiling,0123456789a,0,10,validate\n"
    "abseiling,gone_1-xxxx,20,30,train\n"
)
CLIPS = ("-a_b_c_000005_000015", "zzzzzzzzzzz_000100_000110", "0123456789a_000000_000010")


@pytest.mark.parametrize(
    "layout",
    [
        "{}.mp4",
        "train/{}.mp4",
        "washing dishes/{}.mkv",
        "washing_dishes/{}.mp4",
        "train/washing_dishes/{}.MP4",
    ],
)
def test_kinetics_clips_are_found_wherever_they_lie(tmp_path, layout):
    (tmp_path / "train.csv").write_text(HEADER + ROWS)
    root = touch(tmp_path / "videos", *(layout.format(clip) for clip in CLIPS))
    manifest = from_kinetics_csv(tmp_path / "train.csv", root)
    assert manifest.vocabularies == {"action": ("abseiling", "tossing coin, or not", "washing dishes")}
    assert labels(manifest) == dict(
        zip(CLIPS, ("washing dishes", "tossing coin, or not", "abseiling"), strict=True)
    )
    assert manifest.found == {"train": 2, "val": 1} and manifest.listed == {"train": 3, "val": 1}
    assert manifest.missing == {"train": ("gone_1-xxxx_000020_000030",)}
    assert manifest[0].uri == str(root / layout.format(CLIPS[0]))
    assert manifest[0].group == "-a_b_c" and manifest[0].end_s is None


def test_kinetics_columns_are_read_by_name(tmp_path):
    (tmp_path / "old.csv").write_bytes(
        b"\xef\xbb\xbfis_cc,split,time_end,time_start,youtube_id,label\r\n0,val,15,5,-a_b_c,x\r\n"
    )
    manifest = from_kinetics_csv(tmp_path / "old.csv", touch(tmp_path / "v", f"{CLIPS[0]}.mp4"))
    assert labels(manifest) == {CLIPS[0]: "x"} and manifest.found == {"val": 1}


def test_a_kinetics_test_file_has_no_labels(tmp_path):
    (tmp_path / "train.csv").write_text(HEADER + ROWS)
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end,split\ntttttttttt1,1,11,test\n")
    root = touch(tmp_path / "videos", *(f"{clip}.mp4" for clip in CLIPS), "tttttttttt1_000001_000011.mp4")
    manifest = from_kinetics_csv([tmp_path / "train.csv", tmp_path / "test.csv"], root)
    assert manifest.split("test")[0].labels == {"action": -1}
    with refused("no_labels", tmp_path / "test.csv"):
        from_kinetics_csv(tmp_path / "test.csv", root)
    alone = from_kinetics_csv(tmp_path / "test.csv", root, class_names=("a", "b"))
    assert labels(alone) == {"tttttttttt1_000001_000011": None}


@pytest.mark.parametrize(
    ("text", "code", "key"),
    [
        ("youtube_id,label\nx,y\n", "missing_column", "train.csv"),
        ("", "missing_column", "train.csv"),
        (HEADER + "a,b,0,10,train\na,b,x,10,train\n", "bad_line", "train.csv:3"),
        (HEADER + "\na,b,0\n", "bad_line", "train.csv:3"),
        (HEADER + "a,b,0,10,other\n", "unknown_value", "train.csv:2"),
        (HEADER + '"a,b,0,10,train\n' + "c,d,0,10,train\n" * 20_000, "bad_line", "train.csv:2"),
        (HEADER + "a,b,0,10,train\n", "not_found", "videos"),
    ],
)
def test_wrong_kinetics_files_are_refused(tmp_path, text, code, key):
    (tmp_path / "train.csv").write_text(text)
    root = touch(tmp_path / "videos", "x.mp4")
    with refused(code, key if key == "videos" else tmp_path / key):
        from_kinetics_csv(tmp_path / "train.csv", root)


def test_a_split_that_the_name_of_a_file_does_not_give_is_refused(tmp_path):
    (tmp_path / "k400.csv").write_text("youtube_id,time_start,time_end\na,0,10\n")
    with refused("unknown_value", tmp_path / "k400.csv"):
        from_kinetics_csv(tmp_path / "k400.csv", tmp_path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(StorageError) as error:
        from_kinetics_csv(tmp_path / "nowhere.csv", tmp_path)
    assert f"{tmp_path}/nowhere.csv" in str(error.value)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with refused("not_text", tmp_path / "binary.csv"):
        from_kinetics_csv(tmp_path / "binary.csv", tmp_path)


def test_class_names_fix_the_indices(tmp_path):
    (tmp_path / "train.csv").write_text(HEADER + ROWS)
    root = touch(tmp_path / "videos", *(f"{clip}.mp4" for clip in CLIPS))
    names = ("washing dishes", "unseen", "tossing coin, or not", "abseiling")
    manifest = from_kinetics_csv(tmp_path / "train.csv", root, class_names=names)
    assert [sample.labels["action"] for sample in manifest] == [0, 2, 3]
    with refused("unknown_value", tmp_path / "train.csv:2"):
        from_kinetics_csv(tmp_path / "train.csv", root, class_names=("abseiling",))


def test_the_sixth_column_of_the_old_crawler_is_ignored(tmp_path):
    """``is_cc`` is the last column."""
    (tmp_path / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        '"passing American football (in game)",--07WQ2iBlw,1,11,train,0\n'
        "using computer,_-_a__b-c_1,300,310,validate,1\n"
    )
    clips = ("--07WQ2iBlw_000001_000011", "_-_a__b-c_1_000300_000310")
    manifest = from_kinetics_csv(
        tmp_path / "train.csv", touch(tmp_path / "v", *(f"{clip}.mp4" for clip in clips))
    )
    assert labels(manifest) == dict(
        zip(clips, ("passing American football (in game)", "using computer"), strict=True)
    )
    assert [sample.group for sample in manifest] == ["--07WQ2iBlw", "_-_a__b-c_1"]


@pytest.mark.parametrize(
    ("name", "span"),
    [
        ("--07WQ2iBlw_000001_000011", ("--07WQ2iBlw", 1, 11)),
        ("_-_a__b-c_1_000300_000310", ("_-_a__b-c_1", 300, 310)),
        ("0123_5_78_9_000000_000010", ("0123_5_78_9", 0, 10)),
        ("0123456789a", None),
        ("0123_5_78_a", None),
    ],
)
def test_ids_hold_dashes_and_underscores(name, span):
    assert clip_span(name) == span


# -- mini-Kinetics ----------------------------------------------------------------------------------


@pytest.fixture
def mini(tmp_path):
    """Three classes x 4 training and 1 validation id, as the official lists: bare ids, one a line."""
    classes = ("abseiling", "air drumming", "zumba")
    header = "label,youtube_id,time_start,time_end,split\n"
    rows, ids = {"train": header, "validate": header}, {"train": [], "validate": []}
    clips = {}
    for number, name in enumerate(classes * 5):
        split = "validate" if number >= 12 else "train"
        youtube_id = f"-_{number:08d}_"
        rows[split] += f"{name},{youtube_id},{number},{number + 10},{split}\n"
        ids[split].append(youtube_id)
        clips[youtube_id] = (f"{youtube_id}_{number:06d}_{number + 10:06d}", name)
    rows["train"] += "zumba,not_listed1,0,10,train\n"
    (tmp_path / "kinetics-400_train.csv").write_text(rows["train"])
    (tmp_path / "kinetics-400_val.csv").write_text(rows["validate"])
    (tmp_path / "train_ytid_list.txt").write_text("\n".join(ids["train"]) + "\n")
    (tmp_path / "val_ytid_list.txt").write_text("\n".join(ids["validate"]) + "\n")
    touch(
        tmp_path / "videos", *(f"{clip}.mp4" for clip, _ in clips.values()), "not_listed1_000000_000010.mp4"
    )
    return tmp_path, clips


def test_mini_kinetics_takes_its_labels_from_kinetics(mini):
    root, clips = mini
    manifest = from_mini_kinetics(root, root / "videos")
    assert manifest.name == "mini-kinetics-3"
    assert manifest.vocabularies == {"action": ("abseiling", "air drumming", "zumba")}
    assert manifest.found == {"train": 12, "val": 3}
    assert labels(manifest) == dict(clips.values())
    assert manifest.missing == {}


def test_mini_kinetics_can_be_cut_to_some_classes_and_says_which(mini):
    root, _ = mini
    files = [*sorted(root.glob("*.csv")), *sorted(root.glob("*.txt"))]
    manifest = from_mini_kinetics(files, root / "videos", classes=("zumba", "abseiling"))
    assert manifest.name == "mini-kinetics-2: abseiling, zumba"
    assert manifest.vocabularies == {"action": ("abseiling", "zumba")}
    assert manifest.found == manifest.listed == {"train": 8, "val": 2}
    assert set(labels(manifest).values()) == {"abseiling", "zumba"}
    with refused("unknown_value", "classes"):
        from_mini_kinetics(files, root / "videos", classes=("air_druming",))


def test_underscores_stand_for_the_spaces_in_names_of_classes(mini):
    """So that they pass a shell unquoted."""
    root, _ = mini
    manifest = from_mini_kinetics(root, root / "videos", classes=("air_drumming", "zumba"))
    assert manifest.vocabularies == {"action": ("air drumming", "zumba")}


def test_ids_of_mini_kinetics_that_are_not_in_kinetics_are_counted(mini, caplog):
    root, clips = mini
    with (root / "train_ytid_list.txt").open("a") as file:
        file.write("vanished_id\r\nvanished-id\r\n")
    (root / "videos" / f"{clips['-_00000000_'][0]}.mp4").unlink()
    manifest = from_mini_kinetics(root, root / "videos")
    assert manifest.listed == {"train": 14, "val": 3} and manifest.found == {"train": 11, "val": 3}
    assert set(manifest.missing["train"]) == {"vanished_id", "vanished-id", clips["-_00000000_"][0]}
    assert "train: 2 listed ids are not in the CSV files, such as vanished_id" in caplog.text
    # They may be of classes that were not chosen.
    chosen = from_mini_kinetics(root, root / "videos", classes=("abseiling",))
    assert chosen.listed == {"train": 4, "val": 1} and chosen.missing == {"train": (clips["-_00000000_"][0],)}


def test_what_mini_kinetics_needs(mini):
    root, _ = mini
    with refused("no_labels", root / "train_ytid_list.txt"):
        from_mini_kinetics(root / "train_ytid_list.txt", root / "videos")
    with refused("not_found", root / "kinetics-400_train.csv"):
        from_mini_kinetics(root / "kinetics-400_train.csv", root / "videos")
    (root / "val_ytid_list.txt").write_text("abseiling 3\n")
    with refused("bad_line", root / "val_ytid_list.txt:1"):
        from_mini_kinetics(root, root / "videos")
    (root / "val_ytid_list.txt").write_text("someone_els\n")
    with refused("not_found", root / "kinetics-400_val.csv"):
        from_mini_kinetics([root / "val_ytid_list.txt", root / "kinetics-400_val.csv"], root / "videos")


# -- path label lists -------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["{} {}\n", "{},{}\n", "{}\t{}\n", "{}, {}\r\n"])
def test_lists_with_any_separator(tmp_path, line):
    root = touch(tmp_path / "videos", "a/1 2.mp4", "b/3.mp4", "c.mp4")
    entries = [("a/1 2.mp4", 2), ("b/3.mp4", 0), ("gone.mp4", 1)]
    (tmp_path / "train.csv").write_text("".join(line.format(*entry) for entry in entries) + "\n")
    (tmp_path / "val.csv").write_text(line.format(root / "c.mp4", 1))
    manifest = from_list([tmp_path / "train.csv", tmp_path / "val.csv"], root)
    assert manifest.vocabularies == {"action": ("0", "1", "2")}
    assert labels(manifest) == {"a/1 2": "2", "b/3": "0", "c": "1"}
    assert manifest.missing == {"train": ("gone.mp4",)} and manifest.listed == {"train": 3, "val": 1}


def test_a_list_without_labels_or_with_names(tmp_path):
    root = touch(tmp_path / "videos", "a.mp4", "b.mp4")
    (tmp_path / "kinetics_test_list.txt").write_text("a.mp4\nb.mp4\n")
    manifest = from_list(tmp_path / "kinetics_test_list.txt", root, class_names=("x", "y"))
    assert labels(manifest) == {"a": None, "b": None} and manifest.found == {"test": 2}
    with refused("no_labels", tmp_path / "kinetics_test_list.txt"):
        from_list(tmp_path / "kinetics_test_list.txt", root)
    (tmp_path / "train.txt").write_text("a.mp4 1\n")
    assert labels(from_list(tmp_path / "train.txt", root, class_names=("x", "y"))) == {"a": "y"}


@pytest.mark.parametrize(
    ("separator", "line"), [(None, "{} {} {}"), (None, "{},{},{}"), (";", "{};{};{}"), (" ", "{} {} {}")]
)
def test_lists_with_three_columns_have_the_label_last(tmp_path, separator, line):
    root = touch(tmp_path / "videos", "a/1.mp4", "b 2.mp4")
    lines = [line.format("a/1.mp4", 300, 1), line.format("b 2.mp4", 250, 0)]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    with refused("unclear_columns", tmp_path / "train.csv:1"):
        from_list(tmp_path / "train.csv", root, separator=separator)
    manifest = from_list(tmp_path / "train.csv", root, separator=separator, columns="frames_label")
    assert labels(manifest) == {"a/1": "1", "b 2": "0"}


def test_a_separator_is_not_guessed_if_it_is_given(tmp_path):
    root = touch(tmp_path / "videos", "a, 1.mp4", "b.mp4")
    (tmp_path / "train.csv").write_text("a, 1.mp4|1\nb.mp4\n")
    assert labels(from_list(tmp_path / "train.csv", root, separator="|")) == {
        "a, 1": "1",
        "b": None,
    }
    with refused("bad_line", tmp_path / "train.csv:1") as error:
        from_list(tmp_path / "train.csv", root, separator=";")
    assert "';'" in error.value.remedy


@pytest.mark.parametrize(
    ("text", "code", "key"),
    [
        ("a.mp4 0\nb.mp4 123456789012\n", "out_of_range", "train.csv:2"),
        ("a.mp4 0\nwhat is this\n", "bad_line", "train.csv:2"),
        ("a.mp4 -3\n", "out_of_range", "train.csv:1"),
        ("a.mp4 0\n\nb.mp4 2\n", "out_of_range", "train.csv:3"),
        ("\n", "empty", "train.csv"),
    ],
)
def test_wrong_lists_are_refused(tmp_path, text, code, key):
    (tmp_path / "train.csv").write_text(text)
    with refused(code, tmp_path / key):
        from_list(tmp_path / "train.csv", touch(tmp_path / "videos", "a.mp4"), class_names=("x", "y"))


def test_a_list_without_a_split_or_without_its_videos_is_refused(tmp_path):
    root = touch(tmp_path / "videos", "a.mp4")
    (tmp_path / "list.csv").write_text("a.mp4 0\n")
    with refused("unknown_value", tmp_path / "list.csv"):
        from_list(tmp_path / "list.csv", root)
    (tmp_path / "train.csv").write_text("b.mp4 0\n")
    with refused("not_found", "videos") as error:
        from_list(tmp_path / "train.csv", root)
    assert str(error.value).startswith("videos: none of the listed clips was found, such as b.mp4; ")
