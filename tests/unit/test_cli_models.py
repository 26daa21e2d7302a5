"""``kineray models``: what it prints, and that this is true of the networks."""

import json
import resource
import subprocess
import sys
from types import ModuleType

import pytest
from slow_cases import slow_after
from small_models import PARAMETERS

from kineray.config import SlowFastConfig
from kineray.errors import ConfigError
from kineray.models import list_models, model_presets, summarise
from kineray.models.catalogue import FILE, as_text, facts
from kineray.models.registry import _own_presets, find_preset
from kineray.models.summary import CLASSES

# One of every architecture's file; all models would take half a minute.
FAST = {
    *("s3d", "s3d_v3", "slowfast_nl_r50_8x8", "slow_r50_4x16", "r3d_18", "r2plus1d_18", "c3d", "p3d_63"),
    *("x3d_xs", "mobilenet_v2_average", "st_resnet50", "two_stream_i3d_inception"),
}
every_preset = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in list_models()]
)


def kept():
    return {model["name"]: model for model in json.loads(FILE.read_text())}


def test_every_model_is_one_row(kineray):
    code, out, err = kineray("models")
    assert code == 0
    units, _, rows = out.partition("\n\n")
    assert "multiply-adds" in units and "400 classes" in units
    header, *lines = rows.splitlines()
    assert [line.split()[0] for line in lines] == list_models()
    row = next(line for line in lines if line.startswith("slowfast_nl_r101_8x8"))
    assert row.split()[1:7] == ["60.08", "114.57", "2.01", "3x32x256x256", "2", "slowfast"]
    assert row.endswith("arXiv 1812.03982")
    for column in ("GFLOPs", "input", "stride"):
        assert all(line[header.index(column) - 1] == " " for line in lines)
    assert "kineray models show" in err


def test_json_is_the_catalogue(kineray):
    code, out, err = kineray("models", "--json")
    assert (code, err) == (0, "")
    found = {model["name"]: model for model in json.loads(out)["models"]}
    assert found == kept()
    assert {name: model["parameters"] for name, model in found.items()} == PARAMETERS


def test_the_list_takes_less_than_two_seconds_and_does_not_import_torch():
    code = (
        "import sys\nfrom kineray.cli import run\n"
        "try: run(['models'])\nexcept SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert after.ru_utime - before.ru_utime < 2


@every_preset
def test_the_catalogue_is_true(name):
    """If this fails after a change of an architecture or preset: ``make catalogue``."""
    preset, summary = find_preset(name), summarise(name)
    assert kept()[name] == facts(name, preset, summary)
    assert any((1, CLASSES) in part.outputs for part in summary.parts)
    assert preset.source and preset.study


def test_the_catalogue_has_every_preset_and_no_other():
    assert list(kept()) == sorted(model_presets())


def test_the_catalogue_has_a_line_for_each_model():
    assert as_text(json.loads(FILE.read_text())) == FILE.read_text()


MY_MODEL = """
import kineray
from torch import nn

class TinyConfig(kineray.ModelSection, type="tiny_of_mine"):
    units: int = 5

    def build(self, heads, in_channels=3):
        return Tiny(self, heads, in_channels)

class Tiny(nn.Module):
    def __init__(self, config, heads, in_channels):
        super().__init__()
        self.features = nn.Linear(in_channels, config.units)
        self.heads = nn.ModuleDict({name: nn.Linear(config.units, n) for name, n in heads.items()})

    def forward(self, clips):
        features = self.features(clips.mean((2, 3, 4)))
        return {name: head(features) for name, head in self.heads.items()}

class PickyConfig(kineray.ModelSection, type="wants_16_frames"):
    def build(self, heads, in_channels=3):
        return Picky(TinyConfig(), heads, in_channels)

class Picky(Tiny):
    def forward(self, clips):
        assert clips.shape[2] == 16
        return super().forward(clips)

class WidthConfig(kineray.ModelSection, type="needs_a_width"):
    width: int
"""


@pytest.mark.slow
def test_a_plug_ins_model_is_listed_with_its_costs(tmp_path):
    (tmp_path / "mine.py").write_text(MY_MODEL)
    plugin = str(tmp_path / "mine.py")
    code = (
        "import sys, kineray\nfrom kineray.cli import run\n"
        f"kineray.load_plugins({plugin!r})\n"
        "try: run(['models', '--json'])\nexcept SystemExit as end: assert end.code == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {model["name"]: model for model in json.loads(done.stdout)["models"]}
    mine = found.pop("tiny_of_mine")
    assert found == kept()
    assert (mine["type"], mine["source"], mine["study"]) == ("tiny_of_mine", "mine.py", "")
    assert "wants_16_frames" in done.stderr
    assert mine["parameters"] == 3 * 5 + 5 + 5 * 400 + 400
    assert mine["gflops"] == (3 * 5 + 5 * 400) / 1e9


def test_what_is_no_preset_is_refused_by_name():
    module = ModuleType("mine")
    module.__file__, module.PRESETS = "mine.py", {"odd": SlowFastConfig()}
    with pytest.raises(ConfigError) as error:
        _own_presets(module)
    assert (error.value.code, error.value.key) == ("not_a_preset", "mine.py: PRESETS['odd']")


def test_show_explains_a_model_block_by_block(kineray):
    code, out, err = kineray("models", "show", "slowfast_r50_8x8")
    assert code == 0
    for words in (
        "arXiv 1812.03982",
        "3x32x256x256",
        "frames 2/30 s apart",
        "34,566,488 parameters",
        "65.71 GFLOPs",
        "configuration: model.type=slowfast model.alpha=4 model.fusion_kernel=7\n",
    ):
        assert words in out
    rows = [line.split() for line in out.splitlines()]
    assert ["slow.res3", "Sequential", "1x512x8x32x32", "1,260,544", "11.27"] in rows
    assert "attention" not in out
    assert "kineray train experiments/slowfast.py data.manifest=MANIFEST data.frames=32" in err
    assert "model.type=slowfast model.alpha=4 model.fusion_kernel=7" in err
    assert "attention" in kineray("models", "show", "slowfast_nl_r101_8x8")[1]


def test_show_prints_json(kineray):
    shown = json.loads(kineray("models", "show", "slowfast_r50_8x8", "--json")[1])
    assert json.loads(kineray("models", "--json", "show", "slowfast_r50_8x8")[1]) == shown
    summary = summarise("slowfast_r50_8x8")
    assert shown["overrides"] == ["model.type=slowfast", "model.alpha=4", "model.fusion_kernel=7"]
    assert shown["gflops"] == summary.cost.weighted / 1e9
    parts = {part["name"]: part for part in shown["parts"]}
    assert list(parts) == [part.name for part in summary.parts]
    assert parts["slow.res3"]["outputs"] == [[1, 512, 8, 32, 32]]


@pytest.mark.parametrize(
    ("name", "classes", "clip", "parameters", "gflops", "attention"),
    [
        # A thesis on AVA-Kinetics: 80 classes, and non-local networks of 32 frames.
        ("slowfast_nl_r101_8x8", 80, "32x256", 59_342_488, 114.57, 2.01),
        *slow_after(
            0,
            [
                # 353.8 together
                ("i3d_nl_r101_8x8", 400, "32x256", 59_112_656, 272.2, 81.6),
                ("c3d", 101, "16x112", 78_409_573, 38.5, 0.0),
            ],
        ),
    ],
)
def test_show_counts_for_other_classes_and_clips(kineray, name, classes, clip, parameters, gflops, attention):
    words = ("models", "show", name, "--classes", str(classes), "--clip", clip)
    shown = json.loads(kineray(*words, "--json")[1])
    frames, side = map(int, clip.split("x"))
    assert (shown["classes"], shown["frames"], shown["side"]) == (classes, frames, side)
    assert shown["parameters"] == parameters
    assert shown["gflops"] == pytest.approx(gflops, rel=3e-3)
    assert shown["gflops_attention"] == pytest.approx(attention, rel=0.02)
    code, out, err = kineray(*words)
    assert code == 0
    assert f"{parameters:,} parameters with {classes} classes" in out
    assert f"3x{frames}x{side}x{side} " in out
    assert f"data.frames={frames} " in err and f"{{'action': {classes}}}" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["models", "show", "c3d", "--clip", "16"], "FRAMESxSIDE"),
        (["models", "show", "c3d", "--clip", "0x112"], "FRAMESxSIDE"),
        (["models", "show", "c3d", "--clip", "8x112"], "data.frames"),
        (["models", "show", "c3d", "--classes", "0"], "--classes"),
        (["models", "show", "slowfast_r50_8x"], "did you mean slowfast_r50_8x8?"),
        (["models", "show", "zzz"], "kineray models lists them"),
        (["models", "show"], "Missing argument 'NAME'"),
        (["models", "slowfast_r50_8x8"], "No such command 'slowfast_r50_8x8'"),
    ],
)
def test_bad_input_to_models_is_one_line(kineray, words, message):
    code, out, err = kineray(*words)
    assert (code, out) == (2, "")
    assert err.startswith("kineray: ") and message in err and len(err.splitlines()) == 1
