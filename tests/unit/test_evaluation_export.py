"""Exported files, read without kineray: they give the model's logits and hold all that is needed."""

import json
import sys
from pathlib import Path

import pytest
import torch
from small_models import SMALL

from kineray.config import DataConfig, Experiment, FrameConfig, GruConfig
from kineray.data import Preprocessing
from kineray.errors import ExportError
from kineray.evaluation import export
from kineray.evaluation.export import TOLERANCE
from kineray.models import build_model
from kineray.training import Checkpoint, load_checkpoint
from small_checkpoint import CLASSES, save_small_checkpoint

HEADS = {"verb": ("take", "put"), "noun": ("cup", "knife", "pan")}

FLOW = {"modality": "rgb_flow", "mean": (0.45,) * 3 + (0.5,) * 2, "std": (0.225,) * 5}
every_format = pytest.mark.parametrize("file_format", ["pt2", "onnx"])


def reader(path):
    """(clips -> {head: logits}, metadata) of an exported file, without kineray."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        assert [entry.name for entry in session.get_inputs()] == ["clips"]
        assert session.get_inputs()[0].shape[0] == "batch"
        names = [entry.name for entry in session.get_outputs()]

        def run(clips):
            logits = session.run(None, {"clips": clips.numpy()})
            return dict(zip(names, map(torch.from_numpy, logits), strict=True))

        return run, session.get_modelmeta().custom_metadata_map
    extra = {"preprocessing.json": "", "labels.json": "", "weights_sha256": ""}
    program = torch.export.load(path, extra_files=extra)
    return program.module(), extra


def assert_same(expected, given):
    assert list(given) == list(expected)
    for head, logits in expected.items():
        torch.testing.assert_close(given[head], logits, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.slow
@every_format
def test_a_file_gives_the_logits_of_the_model_and_holds_its_preprocessing(tmp_path, file_format):
    loaded = load_checkpoint(save_small_checkpoint(tmp_path / "run/checkpoints", heads=HEADS))
    target = tmp_path / f"new/small.{file_format}"
    made = export(loaded, str(target), format=file_format)
    assert made.bytes == target.stat().st_size
    assert made.shape == (3, 8, 32, 32)
    assert made.heads == {"verb": 2, "noun": 3}
    assert 0 <= made.difference <= TOLERANCE
    assert [path.name for path in target.parent.iterdir()] == [target.name]

    run, metadata = reader(target)
    preprocessing = Preprocessing.from_json(metadata["preprocessing.json"])
    assert preprocessing == loaded.preprocessing
    assert json.loads(metadata["labels.json"]) == {head: list(names) for head, names in HEADS.items()}
    sha256 = metadata["weights_sha256"]
    assert (sha256.decode() if isinstance(sha256, bytes) else sha256) == loaded.weights_sha256
    generator = torch.Generator().manual_seed(7)
    for count in (1, 2, 5):
        pixels = torch.randint(0, 256, (count, 8, 32, 32, 3), dtype=torch.uint8, generator=generator)
        clips = preprocessing.normalise(pixels)
        with torch.no_grad():
            assert_same(loaded.model(clips), run(clips))


# These consist of the operators of another one that is exported; mvit and swin3d would take minutes.
ALIKE = {
    *("s3d, full", "s3d_v3, top-heavy", "slowfast, basic", "slowfast, r2plus1d", "resnet3d, i3d"),
    *("r2plus1d_bottleneck", "frame_z_average", "frame_conv_lstm_dense", "two_stream_mid"),
    *("frame_attentive_probe, frames", "x3d", "s3d_v3", "s3d", "r2plus1d", "video_resnet18", "c3d", "mvit"),
    *("frame_layers", "swin3d"),
}
# What ONNX is made from is an exported program: a few of these are enough.
EXPORTED = [
    *((name, "onnx") for name in SMALL if name not in ALIKE),
    *((name, "pt2") for name in ("slowfast", "s3d", "frame_lstm")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file_format"), EXPORTED)
def test_every_architecture_can_be_exported(tmp_path, name, file_format):
    torch.manual_seed(0)
    small = SMALL[name]
    heads = {head: len(names) for head, names in HEADS.items()}
    model = build_model(small.config, heads, small.channels)
    data = DataConfig(
        frames=small.frames,
        short_side=(small.side, small.side),
        crop=small.side,
        eval_short_side=small.side,
        eval_crop=small.side,
        **FLOW if small.channels == 5 else {},
    )
    experiment = Experiment(data=data, model=small.config)
    loaded = Checkpoint("small", model.eval(), experiment, Preprocessing.from_config(data, HEADS), {}, "0")
    target = tmp_path / f"small.{file_format}"
    export(loaded, str(target), format=file_format)
    run, _ = reader(target)
    clips = torch.randn(
        4, small.channels, small.frames, small.side, small.side, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        assert_same(model(clips), run(clips))


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"grid": 2, "feature_dtype": "float16"}])
def test_a_frozen_backbone_is_exported_for_any_number_of_clips(tmp_path, fields):
    torch.manual_seed(0)
    config = FrameConfig(
        backbone="mobilenet_v2", cut="features.3", frozen=True, temporal=GruConfig(units=4), **fields
    )
    data = DataConfig(frames=4, short_side=(48, 48), crop=48, eval_short_side=48, eval_crop=48)
    model = build_model(config, {head: len(names) for head, names in HEADS.items()}).eval()
    experiment = Experiment(data=data, model=config)
    loaded = Checkpoint("small", model, experiment, Preprocessing.from_config(data, HEADS), {}, "0")
    export(loaded, str(tmp_path / "small.pt2"), format="pt2")
    run, _ = reader(tmp_path / "small.pt2")
    for count in (1, 3):
        clips = torch.randn(count, 3, 4, 48, 48)
        with torch.no_grad():
            assert_same(model(clips), run(clips))


class Unrepeatable(torch.nn.Module):
    """Gives other logits at every call, so that no file can reproduce them."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, clips_bcthw):
        self.calls += 1
        return {"verb": clips_bcthw.mean((2, 3, 4))[:, :2] + self.calls}


class DataDependent(torch.nn.Module):
    """Chooses by the pixels what to compute."""

    def forward(self, clips_bcthw):
        features = clips_bcthw.mean((2, 3, 4))[:, :2]
        return {"verb": features if features.sum() > 0 else -features}


@pytest.mark.parametrize("model", [Unrepeatable(), DataDependent()], ids=["unrepeatable", "control flow"])
def test_what_cannot_be_exported_is_one_line_and_no_file(tmp_path, model):
    data = DataConfig(frames=8, short_side=(32, 32), crop=32, eval_short_side=32, eval_crop=32)
    preprocessing = Preprocessing.from_config(data, {"verb": ("take", "put")})
    loaded = Checkpoint("a run", model, Experiment(), preprocessing, {}, "0")
    with pytest.raises(ExportError) as error:
        export(loaded, str(tmp_path / "model.pt2"))
    assert (error.value.code, error.value.key) == ("not_exportable", "a run")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_exports_a_run_by_its_name(kineray, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = save_small_checkpoint("runs/small/checkpoints")
    code, out, err = kineray("export", "small", "--format", "pt2", "--out", "small.pt2", "--json")
    assert code == 0, err
    made = json.loads(out)
    assert made["checkpoint"] == uri
    assert (made["shape"], made["heads"]) == ([3, 8, 32, 32], {"action": len(CLASSES)})
    assert made["bytes"] == Path("small.pt2").stat().st_size
    code, out, err = kineray("export", uri, "--format", "onnx", "--out", "small.onnx")
    assert code == 0
    assert out.startswith("small.onnx: ")
    assert len(out.splitlines()) == 2
    assert "kineray export --help" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing", "--format", "pt2", "--out", "m.pt2"], "nothing: "),
        (["small", "--format", "onnx", "--out", "m.pt2"], "--out: "),
        (["small", "--format", "pt2", "--out", "file/m.pt2"], "file/m.pt2"),
        (["small", "--format", "tflite", "--out", "m"], "Invalid value for '--format'"),
        (["small", "--format", "pt2"], "Missing option '--out'"),
    ],
)
def test_bad_input_is_one_line(kineray, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    save_small_checkpoint("runs/small/checkpoints")
    Path("file").touch()
    code, out, err = kineray("export", *words)
    assert (code, out) == (2, "")
    assert err.startswith("kineray: ") and message in err and len(err.splitlines()) == 1, err


def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch, kineray):
    """None in sys.modules is Python's own way to make an import fail as where nothing is installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    save_small_checkpoint("runs/small/checkpoints")
    code, out, err = kineray("export", "small", "--format", "onnx", "--out", "m.onnx")
    assert (code, out) == (2, "")
    assert err == "kineray: onnx: ONNX needs the package onnx; pip install 'kineray[export]'\n"
