"""Annotation files as people have them: whatever a line says is read rightly, or refused with its number."""

import unicodedata
from pathlib import Path

import pytest
from annotation_files import refused, touch

from kineray import storage
from kineray.data import read_dataset
from kineray.data.importers.charades import from_charades
from kineray.data.importers.files import split_of
from kineray.data.importers.hmdb51 import from_hmdb51
from kineray.data.importers.kinetics import from_kinetics_csv
from kineray.data.importers.lists import from_list
from kineray.data.importers.mini_kinetics import from_mini_kinetics
from kineray.errors import ManifestError

HEADER = "label,youtube_id,time_start,time_end,split\n"


def listed(tmp_path, text, name="train.txt"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def labels(manifest):
    return {sample.id: sample.labels["action"] for sample in manifest}


# -- lines that repeat another one ------------------------------------------------------------------


@pytest.mark.parametrize("again", ["N/a.mp4 0", "./N/a.mp4 0", "N/../N/a.mp4,0", "{root}/N/a.mp4 0"])
def test_a_line_that_repeats_another_is_left_out_and_counted(tmp_path, caplog, again):
    touch(tmp_path, "N/a.mp4", "N/b.mp4")
    file = listed(tmp_path, f"N/a.mp4 0\nN/b.mp4 0\n{again}\n".format(root=tmp_path))
    manifest = read_dataset(file)
    assert labels(manifest) == {"N/a": 0, "N/b": 0} and manifest.listed == {"train": 2}
    assert f"repeat another one left out: 1, such as {file}:3 (" in caplog.text
    assert f"as in {file}:1)" in caplog.text


def test_a_clip_with_two_labels_is_refused_with_both_lines(tmp_path):
    file = listed(tmp_path, "a.mp4 0\nb.mp4 0\na.mp4 1\n")
    with refused("wrong_labels", f"{file}:3") as error:
        from_list(file, touch(tmp_path, "a.mp4", "b.mp4"))
    assert f"{file}:1" in error.value.problem
    same = listed(tmp_path, "a.mp4 1 2\na.mp4 2 1\n")
    assert labels(from_list(same, tmp_path, columns="labels")) == {"a": (1, 2)}


def test_a_clip_in_two_splits_is_refused_with_both_lines(tmp_path):
    train, val = listed(tmp_path, "b.mp4 0\na.mp4 1\n"), listed(tmp_path, "a.mp4 1\n", "val.txt")
    with refused("leak", f"{val}:1") as error:
        from_list([train, val], touch(tmp_path, "a.mp4", "b.mp4"))
    assert f"in train too, in {train}:2" in error.value.problem


def test_every_format_counts_repetitions_and_refuses_contradictions(tmp_path, caplog):
    row = "x,-a_b_c,5,15,train\n"
    root = touch(tmp_path / "v", "-a_b_c_000005_000015.mp4", "run/a.avi", "AAAAA.mp4")
    kinetics = listed(tmp_path, HEADER + row * 2, "train.csv")
    assert len(from_kinetics_csv(kinetics, root)) == 1
    assert f"such as {kinetics}:3 (" in caplog.text
    listed(tmp_path, HEADER + row + row.replace("x", "y"), "train.csv")
    with refused("wrong_labels", f"{kinetics}:3"):
        from_kinetics_csv(kinetics, root)
    listed(tmp_path, HEADER + row + row.replace("train", "val"), "train.csv")
    with refused("leak", f"{kinetics}:3"):
        from_kinetics_csv(kinetics, root)

    hmdb = listed(tmp_path, "a.avi 1 \na.avi 1 \n", "run_test_split1.txt")
    assert len(from_hmdb51(tmp_path, root)) == 1
    listed(tmp_path, "a.avi 1 \na.avi 2 \n", "run_test_split1.txt")
    with refused("leak", f"{hmdb}:2"):
        from_hmdb51(tmp_path, root)

    listed(tmp_path, "c000 Holding\nc001 Putting\n", "Charades_v1_classes.txt")
    charades = listed(tmp_path, "id,subject,actions\n" + "AAAAA,P,c000 0 1\n" * 2, "Charades_v1_train.csv")
    assert len(from_charades(charades, root)) == 1
    listed(tmp_path, "id,subject,actions\nAAAAA,P,c000 0 1\nAAAAA,P,c001 0 1\n", "Charades_v1_train.csv")
    with refused("wrong_labels", f"{charades}:3"):
        from_charades(charades, root)

    ids = listed(tmp_path, "0123456789a\n0123456789a\n", "train_ytid_list.txt")
    table = listed(tmp_path, HEADER + "x,0123456789a,0,10,train\n", "kinetics-400_train.csv")
    touch(root, "0123456789a_000000_000010.mp4")
    assert len(from_mini_kinetics([ids, table], root)) == 1
    val = listed(tmp_path, "0123456789a\n", "val_ytid_list.txt")
    with refused("leak", f"{val}:1"):
        from_mini_kinetics([ids, val, table], root)


# -- paths ------------------------------------------------------------------------------------------


def test_absolute_paths_are_used_wherever_they_are(tmp_path, caplog):
    root = touch(tmp_path / "lists", "in.mp4")
    away = touch(tmp_path / "disk", "x/a.mp4", "y/b.mp4", "y/b.avi")
    file = listed(
        root, f"{away}/x/a.mp4 0\n{away}/y/b.mp4 1\n{away}/y/b.avi 1\n{away}/z/gone.mp4 1\n{root}/in.mp4 0\n"
    )
    manifest = read_dataset(file)
    assert labels(manifest) == {"x/a": 0, "y/b.mp4": 1, "y/b.avi": 1, "in": 0}
    assert [sample.uri for sample in manifest][:2] == [f"{away}/x/a.mp4", f"{away}/y/b.mp4"]
    assert manifest.missing == {"train": (f"{away}/z/gone.mp4",)}


def test_lists_on_two_disks_have_the_same_ids(tmp_path):
    hashes = set()
    for disk in ("one", "two/deeper"):
        away = touch(tmp_path / disk, "x/a.mp4", "y/b.mp4")
        file = listed(touch(tmp_path / "lists", "c"), f"{away}/x/a.mp4 0\n{away}/y/b.mp4 1\n")
        hashes.add(read_dataset(file).content_hash)
    assert len(hashes) == 1


def test_paths_may_lead_out_of_the_folder_of_the_list(tmp_path):
    root = touch(tmp_path / "lists")
    root.mkdir()
    touch(tmp_path / "videos", "a.mp4", "b.mp4")
    file = listed(root, "../videos/a.mp4 0\n./../videos/b.mp4 1\n")
    assert labels(read_dataset(file)) == {"a": 0, "b": 1}


def test_files_with_one_name_in_and_outside_of_the_folder_are_two_samples(tmp_path):
    root, away = touch(tmp_path / "in", "x/a.mp4"), touch(tmp_path / "out", "x/a.mp4")
    touch(away, "y/b.mp4")
    manifest = from_list(listed(tmp_path, f"x/a.mp4 0\n{away}/x/a.mp4 0\n{away}/y/b.mp4 0\n"), root)
    assert len(manifest) == 3
    assert {sample.uri for sample in manifest} == {f"{root}/x/a.mp4", f"{away}/x/a.mp4", f"{away}/y/b.mp4"}


def test_a_list_may_name_objects_and_local_files(tmp_path, s3):
    touch(tmp_path, "a.mp4")
    storage.write_bytes(f"{s3}/v/b.mp4", b"x")
    text = f"{tmp_path}/a.mp4 0\n{s3}/v/b.mp4 1\n{s3}/v/gone.mp4 1\n"
    for root in (tmp_path, f"{s3}/v"):
        manifest = from_list(listed(tmp_path, text), root)
        assert {sample.uri for sample in manifest} == {f"{tmp_path}/a.mp4", f"{s3}/v/b.mp4"}
    relative = from_list(listed(tmp_path, "b.mp4 0\n./gone.mp4 0\n"), f"{s3}/v")
    assert labels(relative) == {"b": 0} and relative.missing == {"train": ("gone.mp4",)}
    with refused("bad_uri", f"{tmp_path}/train.txt:1"):
        from_list(listed(tmp_path, "gs://b/a.mp4 0\n"), tmp_path)


@pytest.mark.parametrize(("listed_as", "stored_as"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
@pytest.mark.parametrize("where", ["in", "out"])
def test_accents_of_lists_and_files_may_differ(tmp_path, listed_as, stored_as, where):
    name = "é/café 1.mp4"
    away = touch(tmp_path / where, unicodedata.normalize(stored_as, name))
    prefix = f"{away}/" if where == "out" else ""
    file = listed(tmp_path, f"{prefix}{unicodedata.normalize(listed_as, name)} 0\n")
    (sample,) = from_list(file, touch(tmp_path / "in"))
    assert sample.id == ("é/café 1" if where == "in" else "café 1") and Path(sample.uri).exists()


def test_names_in_quotation_marks_are_those_inside(tmp_path):
    touch(tmp_path, "a, 1.mp4", 'b "2".mp4', "c.mp4")
    file = listed(tmp_path, '"a, 1.mp4",1\n"b ""2"".mp4",0\n"c.mp4"\n')
    assert labels(from_list(file, tmp_path)) == {"a, 1": 1, 'b "2"': 0, "c": -1}


# -- lines that are no lines of a list ----------------------------------------------------------------


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "line",
    [
        "a" * 10_000_000,
        "1 " * 5_000_000,
        "a.mp4" + " " * 10_000_000 + "b",
        "a.mp4" + " " * 60_000 + "b",
        "a.mp4 " + "1 " * 30_000 + "x",
        "a.mp4 " + "9" * 5_000,
        "a.mp4" + ", " * 30_000 + "-",
    ],
)
def test_an_endless_line_is_refused_at_once_with_its_number(tmp_path, line):
    file = listed(tmp_path, f"b.mp4 0\n{line}\n")
    for columns in ("label", "labels"):
        with refused("bad_line", f"{file}:2") as error:
            from_list(file, touch(tmp_path, "b.mp4"), columns=columns)
        assert len(str(error.value)) < 1000
    first = listed(tmp_path, f"{line}\n", "val.txt")
    with pytest.raises(ManifestError):
        read_dataset(first)


def test_the_first_line_may_be_cut_inside_a_character(tmp_path):
    with refused("bad_line", f"{tmp_path}/train.txt:1"):
        read_dataset(listed(tmp_path, "a" + "é" * 40_000))


def test_a_text_that_is_not_utf8_is_named_with_the_line(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"a.mp4 0\nb.mp4 1\ncaf\xe9.mp4 1\n")
    with refused("not_text", f"{tmp_path}/train.txt") as error:
        read_dataset(tmp_path / "train.txt")
    assert "line 3" in error.value.problem


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_are_counted_as_editors_do(tmp_path, end):
    (tmp_path / "train.txt").write_bytes(end.join(["a\x0bb\x1c\u2028c.mp4 0", "", "what is this"]).encode())
    with refused("bad_line", f"{tmp_path}/train.txt:3"):
        read_dataset(tmp_path / "train.txt")


# -- CSV --------------------------------------------------------------------------------------------

ROW = "tossing coin,0123456789a,0,10,train\n"


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('"riding a bike,abcdefghij0,1,11,train\n' + ROW, 2),
        (ROW + '"riding a bike,abcdefghij0,1,11,train\n' + ROW, 3),
        (ROW + 'riding a bike,abcdefghij0,1,11,"train\n' + ROW * 5, 3),
        (ROW + 'riding a bike,abcdefghij0,1,11,"train', 3),
        ('"riding a bike,abcdefghij0,1,11,train\n' + ROW + '"tossing coin, or not",b,1,11,train\n', 2),
        (ROW + "tossing coin, or not,0123456789b,0,10,train\n", 3),
        (ROW + "a,b,0\n", 3),
    ],
)
def test_a_row_that_is_read_wrongly_is_refused_where_it_begins(tmp_path, rows, line):
    file = listed(tmp_path, HEADER + rows, "train.csv")
    with refused("bad_line", f"{file}:{line}"):
        read_dataset(file)


def test_right_quotation_marks_may_hold_commas_and_line_ends(tmp_path):
    file = listed(tmp_path, HEADER + '"tossing ""a"" coin,\nor not",0123456789a,0,10,train\n' + "\n", "a.csv")
    manifest = from_kinetics_csv(file, touch(tmp_path, "0123456789a_000000_000010.mp4"))
    assert manifest.vocabularies["action"] == ('tossing "a" coin,\nor not',)


# -- the split of a file ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("kinetics-400_val", "val"),
        ("val2017", "val"),
        ("Train (1)", "train"),
        ("validation_list", "val"),
        ("val.validate", "val"),
        ("my.test.v2", "test"),
    ],
)
def test_the_name_of_a_list_gives_its_split(name, split):
    assert split_of(name, "file") == split


@pytest.mark.parametrize("name", ["train_val", "val-test", "trainval", "training_set_for_validation", "all"])
def test_a_name_of_several_splits_or_none_is_not_guessed(tmp_path, name):
    file = listed(tmp_path, "a.mp4 0\n", f"{name}.csv")
    with refused("unknown_value", file):
        from_list(file, touch(tmp_path, "a.mp4"))
