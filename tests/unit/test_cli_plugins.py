"""The commands that a command suggests name the plug-ins that they need."""

import json
from pathlib import Path

import pytest

from kineray.cli.output import note_next
from kineray.config import load_plugins
from kineray.data import load_manifest, read_dataset
from kineray.errors import ManifestError

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def suggested(own_plugins, capsys):
    """A command as it is printed after others: ``suggested("kineray serve")``."""

    def printed(command):
        note_next([command])
        return capsys.readouterr().err.splitlines()[-1].strip()

    return printed


@pytest.fixture
def my_loss(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my loss.py").write_text((EXAMPLES / "poly.py").read_text())
    return "my loss.py"


@pytest.mark.parametrize(
    "verb", ["train SCRIPT optim.lr=1", "sweep SCRIPT", "eval X", "promote X", "serve", "models show X"]
)
def test_what_reads_experiments_or_checkpoints_names_the_plugins(verb, my_loss, suggested):
    load_plugins(my_loss, EXAMPLES / "grayscale.py")
    command = f"kineray {verb}"
    assert suggested(command) == f"{command} --plugin 'my loss.py' --plugin {EXAMPLES / 'grayscale.py'}"


@pytest.mark.parametrize(
    "command",
    [
        "kineray runs show X",
        "kineray data show train",
        "kineray export --help",
        "curl --data-binary @a.mp4 X",
    ],
)
def test_what_needs_no_plugin_names_none(command, my_loss, suggested):
    load_plugins(my_loss)
    assert suggested(command) == command


def test_what_is_found_without_being_named_is_not_named(my_loss, suggested, monkeypatch):
    monkeypatch.setenv("KINERAY_PLUGINS", my_loss)
    load_plugins()
    load_plugins(EXAMPLES / "grayscale.py")
    assert suggested("kineray serve") == f"kineray serve --plugin {EXAMPLES / 'grayscale.py'}"


def test_an_installed_module_is_named_by_its_name(tmp_path, suggested, monkeypatch):
    (tmp_path / "losses_of_mine.py").write_text((EXAMPLES / "poly.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    load_plugins("losses_of_mine")
    assert suggested("kineray serve") == "kineray serve --plugin losses_of_mine"


def test_a_script_that_is_trained_need_not_be_named_besides(my_loss, suggested):
    load_plugins(EXAMPLES / "poly.py")
    command = f"kineray train {EXAMPLES / 'poly.py'}"
    assert suggested(command) == command
    assert suggested("kineray eval X") == f"kineray eval X --plugin {EXAMPLES / 'poly.py'}"


SOMETHING = {
    "labels.json": {"Pushing something from left to right": "1", "Holding something": "0"},
    "train.json": [
        {"id": "7", "label": "pushing a cup", "template": "Pushing [something] from left to right"},
        {"id": "8", "label": "holding a cup", "template": "Holding [something]"},
    ],
    "validation.json": [{"id": "9", "label": "holding a pen", "template": "Holding [something]"}],
    "test.json": [{"id": "10"}],
}


@pytest.fixture
def something(tmp_path, monkeypatch, own_plugins):
    """Something-Something v2 as it is distributed; the video 8 is lost."""
    monkeypatch.chdir(tmp_path)
    Path("labels").mkdir()
    Path("videos").mkdir()
    for name, content in SOMETHING.items():
        Path("labels", name).write_text(json.dumps(content))
    for name in ("7", "9", "10"):
        Path("videos", f"{name}.webm").touch()


def test_the_data_set_of_the_examples_is_imported_and_then_needed_no_more(kineray, something):
    plugin = ("--plugin", str(EXAMPLES / "something_v2.py"))
    with pytest.raises(ManifestError):
        read_dataset("labels", videos="videos")
    code, _, err = kineray("data", "import", "labels", "--videos", "videos", *plugin, "--out", "a.parquet")
    assert code == 0 and "listed but missing: 8" in err
    assert "kineray train experiments/slowfast.py data.manifest=a.parquet\n" in err
    manifest = load_manifest("a.parquet")
    assert manifest.vocabularies == {"action": ("Holding something", "Pushing something from left to right")}
    assert [(s.id, s.split, s.labels["action"]) for s in manifest] == [
        ("7", "train", 1),
        ("9", "val", 0),
        ("10", "test", -1),
    ]
