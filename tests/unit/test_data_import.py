"""``read_dataset``: formats are recognised, also of plug-ins; several labels per clip; sizes are recorded."""

import json
import shutil

import pytest
from annotation_files import refused, touch

from kineray.config import load_plugins, variants
from kineray.data import Importer, read_dataset
from kineray.errors import ManifestError

CLASSES = "c000 Holding some clothes\nc001 Putting clothes somewhere\nc002 Taking a dish/es\n"
HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
TRAIN = (
    HEADER + 'AAAAA,PERS1,Kitchen,6,7,Yes,"A person, cooking",dish,text,c002 11.90 21.20;c000 0.00 12.60;'
    "c002 22.00 30.10,30.50\nBBBBB,PERS2,Attic,,,No,script,,text,,12.00\nGONE1,PERS2,Attic,,,No,s,,t,,12\n"
)
TEST = HEADER + "CCCCC,PERS3,Attic,,,No,script,,text,c001 0.00 99.00,12.00\n"

TOY = """
import kineray
from kineray.data import Manifest, Sample
from kineray.data.importers.base import Importer, Videos


class ToyImporter(Importer, type="toy"):
    \"\"\"Files that end in .toy: a name and a class in each line.\"\"\"

    videos: Videos = ""
    prefix: str = ""

    @classmethod
    def recognises(cls, sources):
        return all(source.name.endswith(".toy") for source in sources)

    def read(self, sources):
        rows = [line.split() for line in open(sources[0])]
        names = tuple(sorted({label for _, label in rows}))
        samples = [
            Sample(self.prefix + name, f"{self.videos}/{name}.mp4", 0.0, None, {"action": names.index(label)},
                   name, "train")
            for name, label in rows
        ]
        return Manifest("toys", samples, {"action": names})
"""


@pytest.fixture
def charades(tmp_path):
    folder = touch(tmp_path / "Charades", "videos/Charades_v1_480/AAAAA.mp4", "videos/BBBBB.mp4", "CCCCC.mp4")
    for name, text in [("classes.txt", CLASSES), ("train.csv", TRAIN), ("test.csv", TEST)]:
        (folder / f"Charades_v1_{name}").write_text(text)
    return folder


def test_a_video_of_charades_has_the_set_of_its_actions(charades):
    manifest = read_dataset(charades)
    assert manifest.name == "charades" and manifest.multi_label == {"action"}
    assert manifest.vocabularies["action"][2] == "Taking a dish/es"
    assert {sample.id: sample.labels["action"] for sample in manifest} == {
        "AAAAA": (0, 2),
        "BBBBB": (),
        "CCCCC": (1,),
    }
    assert manifest.found == {"test": 1, "train": 2} and manifest.missing == {"train": ("GONE1",)}
    assert manifest[1].group == "PERS1" and manifest[1].end_s is None
    assert manifest.labels("action").tolist() == [[0, 1, 0], [1, 0, 1], [0, 0, 0]]


def test_charades_by_its_files(charades, tmp_path):
    train = charades / "Charades_v1_train.csv"
    one = read_dataset(train)
    assert one.found == {"train": 2}
    named = [train, charades / "Charades_v1_test.csv", charades / "Charades_v1_classes.txt"]
    assert read_dataset(named).found == {"train": 2, "test": 1}
    copy = shutil.copy(train, tmp_path)
    with refused("not_found", copy):
        read_dataset(copy, videos=charades)


@pytest.mark.parametrize("actions", ["c003 0 1", "c001 0", "1 0 1", "c001 0 1 c002 0 1"])
def test_wrong_actions_of_charades_are_refused(charades, actions):
    file = charades / "Charades_v1_test.csv"
    file.write_text(TEST.replace("c001 0.00 99.00", actions))
    with refused("bad_line", f"{file}:2"):
        read_dataset(charades)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a.mp4 1 3", "b.mp4 2"], [(1, 3), (2,)]),
        (["a.mp4 1 3 5", "b.mp4 2"], [(1, 3, 5), (2,)]),
        (["a.mp4,5,1,3", "b.mp4"], [(1, 3, 5), None]),
        (["a.mp4 1,3", "b.mp4 2"], [(1, 3), (2,)]),
    ],
)
def test_several_labels_a_line_are_never_taken_for_a_number_of_frames(tmp_path, lines, expected):
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "train.txt").write_text("\n".join(lines))
    with refused("unclear_columns", tmp_path / "train.txt:1") as error:
        read_dataset(tmp_path / "train.txt")
    assert "`columns`" in error.value.remedy
    manifest = read_dataset(tmp_path / "train.txt", columns="labels")
    assert [sample.labels["action"] for sample in manifest] == expected
    assert manifest.multi_label == {"action"}


def test_a_list_of_frames_and_labels_is_read_if_columns_says_so(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "train.txt").write_text("a.mp4 300 1\nb.mp4 250 0\n")
    manifest = read_dataset(tmp_path / "train.txt", columns="frames_label")
    assert manifest.labels("action").tolist() == [1, 0] and not manifest.multi_label
    (tmp_path / "train.txt").write_text("a.mp4 300 1\nb.mp4 0\n")
    with refused("unclear_columns", tmp_path / "train.txt:2"):
        read_dataset(tmp_path / "train.txt", columns="frames_label")


def test_a_copy_elsewhere_has_the_same_hash_and_other_videos_another(tmp_path):
    for name in ("train/run/1.mp4", "train/jump/2.mp4"):
        touch(tmp_path / "set", name)
        (tmp_path / "set" / name).write_bytes(name.encode())
    first = read_dataset(tmp_path / "set")
    assert sorted(sample.size_bytes for sample in first) == [15, 16]
    shutil.copytree(tmp_path / "set", tmp_path / "copy")
    assert read_dataset(tmp_path / "copy").content_hash == first.content_hash
    (tmp_path / "copy/train/run/1.mp4").write_bytes(b"smaller")
    assert read_dataset(tmp_path / "copy").content_hash != first.content_hash


def test_formats_and_options_that_do_not_exist_are_named(tmp_path):
    touch(tmp_path, "train/run/1.mp4")
    for given, code, key in [
        ({"format": "folder"}, "unknown_variant", "format"),
        ({"split": 2}, "unknown_key", "split"),
        ({"val_shar": 0.5}, "unknown_key", "val_shar"),
        ({"val_share": 1.5}, "bad_value", "val_share"),
    ]:
        with refused(code, key):
            read_dataset(tmp_path, **given)
    with pytest.raises(ManifestError, match="did you mean folders"):
        read_dataset(tmp_path, format="folder")
    with pytest.raises(ManifestError, match="did you mean val_share"):
        read_dataset(tmp_path, val_shar=0.5)
    with refused("not_set", "sources"):
        read_dataset([])


def test_class_names_come_from_a_file_or_stand_between_commas(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "train.txt").write_text("a.mp4 0\nb.mp4 1\n")
    (tmp_path / "names").write_text("run\n\n jump \n")
    for classes in (tmp_path / "names", f"{tmp_path}/names", "run,jump", " run, jump, ", ("run", "jump")):
        manifest = read_dataset(tmp_path / "train.txt", classes=classes)
        assert manifest.vocabularies == {"action": ("run", "jump")}
    slashes = read_dataset(tmp_path / "train.txt", classes="take a dish/es,put a dish/es")
    assert slashes.vocabularies == {"action": ("take a dish/es", "put a dish/es")}


@pytest.mark.parametrize("classes", ["gone", "gone.txt", "lists/gone", "a,b.txt"])
def test_a_file_of_classes_that_does_not_exist_is_not_read_as_a_class_name(tmp_path, classes, kineray):
    touch(tmp_path, "a.mp4")
    (tmp_path / "train.txt").write_text("a.mp4 0\n")
    with refused("not_found", "classes"):
        read_dataset(tmp_path / "train.txt", classes=classes)
    code, out, err = kineray("data", "import", str(tmp_path / "train.txt"), "--classes", classes)
    assert (code, out) == (2, "") and err.startswith(f"kineray: --classes={classes}: no such file; ")
    assert not (tmp_path / "manifest.parquet").exists()


def test_files_without_class_names_are_refused(tmp_path):
    touch(tmp_path, "a.mp4", "blank")
    (tmp_path / "train.txt").write_text("a.mp4 0\n")
    for classes in (str(tmp_path / "blank"), ","):
        with refused("empty", "classes"):
            read_dataset(tmp_path / "train.txt", classes=classes)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with refused("not_text", tmp_path / "binary"):
        read_dataset(tmp_path / "train.txt", classes=tmp_path / "binary")


def test_the_importer_of_a_plugin_is_one_of_the_formats(tmp_path, own_plugins, kineray):
    plugin = tmp_path / "toy.py"
    plugin.write_text(TOY)
    touch(tmp_path, "v/a.mp4", "v/b.mp4")
    listing = tmp_path / "list.toy"
    listing.write_text("a run\nb jump\n")
    words = ("data", "import", str(listing), "--plugin", str(plugin), "--videos", f"{tmp_path}/v")
    code, out, err = kineray(*words, "--prefix", "toys/", "--json")
    assert code == 0, err
    assert json.loads(out)["name"] == "toys"
    load_plugins(str(plugin))
    assert list(variants(Importer))[-1] == "toy"
    manifest = read_dataset(listing, videos=str(tmp_path / "v"), prefix="toys/")
    assert [sample.id for sample in manifest] == ["toys/a", "toys/b"]
    text = kineray("data", "import", "--help")[1]
    assert "toy " in text and "--prefix" in text and "Files that end in .toy" in text
    with pytest.raises(ManifestError, match="did you mean toy"):
        read_dataset(listing, format="toi")


@pytest.fixture
def toys(tmp_path, own_plugins, monkeypatch):
    """Load an importer whose ``read`` is ``body``: ``toys("return None")`` gives its file and its source."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.toy").write_text("a run\n")

    def made(body, method="read(self, sources)"):
        plugin = tmp_path / "toy.py"
        head = TOY.partition("    def read")[0]
        plugin.write_text(
            f"{head}    {'@classmethod' * ('cls' in method)}\n    def {method}:\n        {body}\n"
        )
        load_plugins(plugin)
        return str(plugin), "list.toy"

    return made


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return {}['gone']", "KeyError: 'gone'"),
        ("import json; json.loads('no')", "JSONDecodeError: Expecting value"),
        ("open('/nowhere')", "FileNotFoundError: "),
        ("raise ValueError", "ValueError"),
        ("b'\\xff'.decode()", "UnicodeDecodeError: "),
        ("from kineray import storage; storage.join(None)", "TypeError: "),
    ],
)
def test_what_a_plugins_importer_raises_is_one_line_with_its_file_and_line(toys, kineray, body, told):
    plugin, source = toys(body)
    line = len((TOY.partition("    def read")[0]).splitlines()) + 3
    with refused("plugin_failed", f"{plugin}:{line}") as error:
        read_dataset(source)
    assert error.value.problem.startswith(told) and error.value.__cause__ is not None
    code, out, err = kineray("data", "import", source, "--plugin", plugin)
    assert (code, out) == (2, "") and err.startswith(f"kineray: {plugin}:{line}: ") and err.count("\n") == 1
    assert "Traceback" in kineray("--verbose", "data", "import", source, "--plugin", plugin)[2]


def test_every_method_of_a_plugins_importer_is_called_like_that(toys):
    plugin, source = toys("return sources[0].nam", "recognises(cls, sources)")
    with pytest.raises(ManifestError) as error:
        read_dataset(source)
    assert error.value.code == "plugin_failed" and error.value.key.startswith(f"{plugin}:")
    assert "'nam'" in error.value.problem


def test_what_a_plugins_importer_raises_for_the_user_and_returns_wrongly(toys):
    plugin, source = toys("self.one_of([sources[0], 'b'])")
    with refused("several_sources", "b"):
        read_dataset(source)
    plugin, source = toys("return None")
    with refused("wrong_type", plugin):
        read_dataset(source)
