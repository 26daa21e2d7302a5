"""``kineray data import`` and ``show``: recognising the format of SOURCE, and refusing unused options."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from annotation_files import touch

from kineray.data import load_manifest
from kineray.data.derive import flow
from kineray.data.importers.dataset import format_of, import_dataset
from kineray.errors import ManifestError
from kineray.video import encode

KINETICS = "label,youtube_id,time_start,time_end,split\nabseiling,0123456789a,0,10,train\n"
VIDEO = "0123456789a_000000_000010.mp4"
EPIC = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
    "stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
    "P01_11_0,P01,P01_11,,00:00:00.00,00:00:00.10,1,6,take plate,take,0,plate,0,['plate'],[0]\n"
)
EPIC_55 = (
    "uid,participant_id,video_id,narration,start_timestamp,stop_timestamp,start_frame,stop_frame,verb,"
    "verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
    "0,P01,P01_11,take plate,00:00:00.00,00:00:00.10,1,6,take,0,plate,0,['plate'],[0]\n"
)
CLASSES = "id,key,instances,category\n0,{0},['{0}'],things\n"
PBTXT = 'item { name: "run" id: 1 }\nitem { name: "fall" id: 2 }\n'

# Every data set as a folder of its annotations and videos: name of the file -> text.
FOLDERS = {
    "folders": {"train/run/1.mp4": "", "val/run/2.mp4": ""},
    "kinetics-csv": {"train.csv": KINETICS, f"v/{VIDEO}": ""},
    "mini-kinetics": {"k400_train.csv": KINETICS, "train_ytid_list.txt": "0123456789a\n", f"v/{VIDEO}": ""},
    "list": {"train.csv": "v/a.mp4 0\n", "v/a.mp4": ""},
    "ucf101": {
        "classInd.txt": "1 YoYo\r\n",
        "trainlist01.txt": "YoYo/v_YoYo_g08_c01.avi 1\r\n",
        "testlist01.txt": "YoYo/v_YoYo_g01_c01.avi\r\n",
        "trainlist02.txt": "YoYo/v_YoYo_g01_c01.avi 1\r\n",
        "testlist02.txt": "YoYo/v_YoYo_g08_c01.avi\r\n",
        "YoYo/v_YoYo_g01_c01.avi": "",
        "YoYo/v_YoYo_g08_c01.avi": "",
    },
    "hmdb51": {
        "run_test_split1.txt": "a_run_f_cm_np1_fr_bad_3.avi 1 \n",
        "run_test_split3.txt": "a_run_f_cm_np1_fr_bad_3.avi 2 \n",
        "run/a_run_f_cm_np1_fr_bad_3.avi": "",
    },
    "epic": {
        "EPIC_100_validation.csv": EPIC,
        "EPIC_100_verb_classes.csv": CLASSES.format("take"),
        "EPIC_100_noun_classes.csv": CLASSES.format("plate"),
        "EPIC_100_tail_nouns.csv": "noun\n0\n",
        "P01/videos/P01_11.MP4": "",
        **{f"rgb/P01_11/frame_{number:010d}.jpg": "" for number in range(1, 7)},
        **{f"of/P01_11/{c}/frame_{number:010d}.jpg": "" for number in range(1, 4) for c in "uv"},
    },
    "ava": {
        "ava_train_v2.2.csv": "a-b_c-d_e-f,0902,0,0,1,1,2,0\n",
        "actions.pbtxt": PBTXT,
        "a-b_c-d_e-f.mkv": "",
    },
    "ava-kinetics": {
        "kinetics_train_v1.0.csv": "0123456789a,5.5,0,0,1,1,2\n0123456789a,7.5\n",
        "actions.pbtxt": PBTXT,
        VIDEO: "",
    },
}


def written(root, files):
    for name, text in files.items():
        touch(root, name)
        (root / name).write_bytes(text.encode())
    return root


@pytest.fixture
def kineray(kineray, tmp_path, monkeypatch):
    """``kineray`` in a folder with the data sets above."""
    monkeypatch.chdir(tmp_path)
    for name, files in FOLDERS.items():
        written(tmp_path / name, files)
    return kineray


def imported(kineray, *words):
    code, out, err = kineray("data", "import", *words, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize(
    "layout", ["folders", "mini-kinetics", "ucf101", "hmdb51", "epic", "ava", "ava-kinetics"]
)
def test_the_format_of_a_folder_is_recognised(kineray, layout):
    assert format_of([layout]) == layout
    made = imported(kineray, layout)
    assert made["manifest"] == f"{layout}/manifest.parquet"
    assert made == imported(kineray, layout, "--format", layout)
    assert sum(row["found"] for row in made["splits"]) == len(load_manifest(layout)) > 0
    shown = json.loads(kineray("data", "show", layout, "--json")[1])
    assert shown == made | {"manifest": layout}


@pytest.mark.parametrize(
    ("sources", "layout"),
    [
        (["kinetics-csv/train.csv"], "kinetics-csv"),
        (["list/train.csv"], "list"),
        (["mini-kinetics/train_ytid_list.txt", "mini-kinetics/k400_train.csv"], "mini-kinetics"),
        (["mini-kinetics/k400_train.csv", "mini-kinetics/train_ytid_list.txt"], "mini-kinetics"),
        (["epic/EPIC_100_validation.csv"], "epic"),
        (["ava/ava_train_v2.2.csv"], "ava"),
        (["ava/ava_train_v2.2.csv", "ava/actions.pbtxt"], "ava"),
        (
            ["ava/actions.pbtxt", "ava/ava_train_v2.2.csv", "ava-kinetics/kinetics_train_v1.0.csv"],
            "ava-kinetics",
        ),
        (["ava-kinetics/kinetics_train_v1.0.csv"], "ava-kinetics"),
    ],
)
def test_the_format_of_files_is_recognised(kineray, sources, layout):
    assert format_of(sources) == layout
    videos = "list" if layout == "list" else "."
    made = imported(kineray, *sources, "--videos", videos)
    assert made["manifest"] == f"{sources[0].partition('/')[0]}/manifest.parquet"


def test_a_list_of_epic_55_is_recognised_by_its_header(tmp_path):
    (tmp_path / "train.csv").write_text(EPIC_55)
    assert format_of([str(tmp_path / "train.csv")]) == "epic"


@pytest.mark.parametrize(
    "source", ["ucf101/trainlist01.txt", "ucf101/testlist02.txt", "hmdb51/run_test_split1.txt"]
)
def test_one_list_of_several_is_not_read_as_if_its_labels_started_at_0(kineray, source):
    code, out, err = kineray("data", "import", source)
    assert (code, out) == (2, "")
    assert err.startswith(f"kineray: {source}: only one of the lists of ")


def test_files_of_different_data_sets_are_refused(kineray):
    for sources, code in [
        (["ava/ava_train_v2.2.csv", "epic/EPIC_100_validation.csv"], "mixed_formats"),
        (["list/train.csv", "epic/EPIC_100_validation.csv"], "mixed_formats"),
        (["list/train.csv", "folders"], "unclear_format"),
    ]:
        with pytest.raises(ManifestError) as error:
            format_of(sources)
        assert error.value.code == code
    with pytest.raises(ManifestError) as error:
        import_dataset("ava/actions.pbtxt")
    assert (error.value.code, error.value.key) == ("not_found", "ava/actions.pbtxt")


@pytest.mark.parametrize(
    ("layout", "option", "value"),
    [
        ("folders", "--videos", "x"),
        ("folders", "--classes", "x"),
        ("folders", "--split", "1"),
        ("ucf101", "--classes", "x"),
        ("ucf101", "--offset", "900"),
        ("hmdb51", "--separator", ","),
        ("epic", "--split", "2"),
        ("epic", "--classes", "x"),
        ("ava", "--frames", "x"),
        ("ava-kinetics", "--flow", "x"),
        ("mini-kinetics", "--offset", "0"),
        ("kinetics-csv", "--separator", ","),
        ("list", "--flow", "x"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(kineray, layout, option, value):
    code, out, err = kineray("data", "import", layout, "--format", layout, option, value)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert f"{layout} is read as " in err and option in err


@pytest.mark.parametrize("layout", ["folders", "ucf101", "hmdb51"])
def test_two_folders_are_refused(kineray, layout):
    code, _, err = kineray("data", "import", layout, layout)
    assert code == 2
    assert f"{layout}" in err


@pytest.mark.parametrize(("layout", "split", "found"), [("ucf101", "2", [1, 1]), ("hmdb51", "3", [1])])
def test_the_split_is_chosen(kineray, layout, split, found):
    made = imported(kineray, layout, "--split", split)
    assert made["name"] == f"{layout}-split{split}"
    assert [row["found"] for row in made["splits"]] == found
    code, _, err = kineray("data", "import", layout, "--split", "4")
    assert code == 2 and "split: input should be less than or equal to 3" in err


def test_epic_is_imported_with_frames_flow_or_videos(kineray):
    imported(kineray, "epic")
    assert load_manifest("epic")[0].uri.endswith("P01_11.MP4")
    imported(kineray, "epic", "--frames", "epic/rgb")
    assert load_manifest("epic")[0].uri.endswith("epic/rgb/P01_11/frame_%010d.jpg#fps=60")
    imported(kineray, "epic", "--flow", "epic/of")
    assert load_manifest("epic")[0].uri.endswith("{u,v}/frame_%010d.jpg#fps=30&bound=25")
    assert load_manifest("epic")[0].flow == ""
    code, _, err = kineray("data", "import", "epic", "--frames", "epic/rgb", "--videos", "epic")
    assert code == 2 and "--frames: given together with --videos" in err


@pytest.mark.parametrize(("option", "ends"), [("--videos", "P01_11.MP4"), ("--frames", "#fps=60")])
def test_epic_is_imported_with_flow_in_addition_to_its_frames(kineray, option, ends):
    folder = "epic/P01" if option == "--videos" else "epic/rgb"
    made = imported(kineray, "epic", option, folder, "--flow", "epic/of")
    (sample,) = load_manifest("epic")
    assert sample.uri.endswith(ends) and sample.flow.endswith("{u,v}/frame_%010d.jpg#fps=30&bound=25")
    assert made["flow"] == 1 and "\nwith optical flow\n" in kineray("data", "show", "epic")[1]


@pytest.mark.parametrize("as_file", [False, True])
def test_mini_kinetics_is_imported_with_some_classes_only(kineray, as_file):
    Path("chosen.txt").write_text("abseiling\n")
    made = imported(kineray, "mini-kinetics", "--classes", "chosen.txt" if as_file else " abseiling, ")
    assert made["name"] == "mini-kinetics-1: abseiling"
    for classes in (",", "gone.txt"):
        code, _, err = kineray("data", "import", "mini-kinetics", "--classes", classes)
        assert code == 2 and classes in err


def test_offset_and_separator_are_used(kineray):
    imported(kineray, "ava", "--offset", "900")
    assert load_manifest("ava")[0].start_s == 2.0
    Path("list/train.csv").write_text("v/a.mp4;25;3\n")
    imported(kineray, "list/train.csv", "--separator", ";", "--columns", "frames_label")
    assert load_manifest("list").labels("action").tolist() == [3]


def test_the_summary_of_a_manifest_is_printed(kineray):
    Path("epic/P01/videos/P01_11.MP4").write_bytes(b"not empty")
    code, out, err = kineray("data", "import", "epic", "--format", "epic")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("epic/manifest.parquet  epic-kitchens-100  ")
    assert lines[1:6] == [
        "verb: 1 classes (take)",
        "noun: 1 classes (plate)",
        "action: 1 classes (take plate)",
        "verb_category: 1 classes (things)",
        "noun_category: 1 classes (things)",
    ]
    assert [line.split() for line in lines[6:8]] == [
        ["split", "found", "listed", "groups"],
        ["val", "1", "1", "1"],
    ]
    assert lines[8:] == ["subsets: tail_noun 1"]
    assert err.splitlines() == [
        "next:",
        "  kineray data validate epic/manifest.parquet",
        "  kineray train experiments/slowfast.py data.manifest=epic/manifest.parquet",
    ]


def test_the_summary_of_a_data_set_with_boxes_counts_them(kineray):
    out, err = kineray("data", "import", "ava-kinetics")[1:]
    assert "action: 2 classes (run, fall)\n1 boxes of persons\n" in out
    assert "kineray data validate" in err and "kineray train" not in err  # its clips have no labels
    made = json.loads(kineray("data", "show", "ava-kinetics", "--json")[1])
    assert made["boxes"] == 1 and made["labelled"] == {"action": 0} and made["evaluated"] == {}


def test_if_no_clip_is_found_the_error_is_one_line(kineray):
    code, out, err = kineray("data", "import", "kinetics-csv/train.csv", "--videos", "list")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "none of the listed clips was found, such as 0123456789a_000000_000010" in err


def test_clips_without_a_label_are_counted(kineray):
    Path("list/train.csv").write_text("v/a.mp4 1\nv/b.mp4\n")
    touch(Path("list"), "v/b.mp4")
    out = kineray("data", "import", "list/train.csv")[1]
    assert "action: 2 classes (0, 1); 1 of 2 clips have one" in out


@pytest.mark.parametrize(("command", "module"), [("reencode", encode), ("flow", flow)])
def test_the_defaults_are_those_of_the_settings(kineray, command, module):
    text = " ".join(kineray("data", command, "--help")[1].split())
    for field in fields(module.Settings):
        option = text.partition(f"--{field.name.replace('_', '-')} ")[2].partition(" --")[0]
        default = "the video's own" if field.default is None else field.default
        assert f"[default: {default}" in option
