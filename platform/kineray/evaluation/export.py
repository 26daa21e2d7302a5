"""A trained model as one file that can be run without kineray: ONNX, or PyTorch's exported program.

The model takes normalised clips, ``clips`` float32 [batch, C, T, H, W] of any batch size, and returns the
logits of each head by its name. The file carries ``preprocessing.json`` (how clips are sampled, scaled and
normalised), ``labels.json`` ({head: class names}) and ``weights_sha256``:

    onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map["labels.json"]

    extra = {"labels.json": ""}
    model = torch.export.load(file, extra_files=extra).module()  # extra["labels.json"] is bytes now
"""

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from kineray import storage as store
from kineray.errors import ExportError
from kineray.evaluation.checkpoints import CheckpointLike, open_checkpoint

Format = Literal["onnx", "pt2"]
Run = Callable[[Tensor], Mapping[str, Tensor]]

TOLERANCE = 1e-4
BATCHES = (1, 3)
_TRACED = 2  # clips: torch.export treats a batch of one as a constant


@dataclass(frozen=True)
class Exported:
    """The file that was written, and the checkpoint that it was made from.

    ``shape``: of a clip (C, T, H, W); ``heads``: head -> number of classes. ``difference``: the largest
    difference from the model's own logits, relative to the largest logit if that is above 1.
    """

    file: str
    format: Format
    bytes: int
    checkpoint: str
    weights_sha256: str
    shape: tuple[int, int, int, int]
    heads: Mapping[str, int]
    difference: float


def export(
    checkpoint: CheckpointLike,
    out: str,
    *,
    format: Format | None = None,
    storage: str | None = None,
    on_start: Callable[[str], None] | None = None,
) -> Exported:
    """Write the model of a checkpoint as one file, ``out`` (a path or s3://).

    ``checkpoint``: a run's name in ``storage``, the folder or s3:// URI of a run or checkpoint, or a
    checkpoint that was loaded onto the CPU. ``format``: ``"onnx"`` or ``"pt2"``, by default the ending of
    ``out``.
    ``storage``: by default KINERAY_STORAGE or ./runs. ``on_start`` is called with the checkpoint's location
    before the long part, which for a large model takes minutes.

    The file is written only after its logits for random clips, in batches of 1 and 3, were found equal to the
    model's within 1e-4. Raises ExportError if they are not, if the model cannot be exported, or if a package
    that ONNX needs is missing; CheckpointError; and StorageError if ``out`` cannot be written.
    """
    file_format = _format_of(out, format)
    if file_format == "onnx":
        check_onnx()
    loaded, _ = open_checkpoint(checkpoint, storage=storage, device="cpu")
    store.check_writable(out)
    if on_start is not None:
        on_start(loaded.uri)
    preprocessing = loaded.preprocessing
    side = preprocessing.eval_crop
    shape = (preprocessing.channels, preprocessing.frames, side, side)
    metadata = {
        "preprocessing.json": preprocessing.to_json(),
        "labels.json": json.dumps(preprocessing.labels),
        "weights_sha256": loaded.weights_sha256,
    }
    model = loaded.model.eval()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"model.{file_format}")
        with _explained(loaded.uri, file_format):
            program = _trace(model, shape)
            if file_format == "onnx":
                _save_onnx(program, file, list(preprocessing.labels), metadata)
                run = _load_onnx(file)
            else:
                torch.export.save(program, file, extra_files=metadata)
                run = torch.export.load(file).module()
            difference = _difference(model, run, shape)
        if not difference <= TOLERANCE:
            raise _cannot(loaded.uri, file_format, f"its logits would be off by {difference:.2g}")
        content = file.read_bytes()
    store.write_bytes(out, content)
    return Exported(
        file=out,
        format=file_format,
        bytes=len(content),
        checkpoint=loaded.uri,
        weights_sha256=loaded.weights_sha256,
        shape=shape,
        heads={head: len(names) for head, names in preprocessing.labels.items()},
        difference=difference,
    )


def check_onnx() -> None:
    """Raise ExportError if a package that ONNX needs is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ExportError(
            f"ONNX needs the package {error.name}",
            code="missing_package",
            key=error.name,
            remedy="pip install 'kineray[export]'",
        ) from None


def _format_of(out: str, wanted: Format | None) -> Format:
    for known in get_args(Format):
        if out.endswith(f".{known}") and wanted in (None, known):
            return cast(Format, known)
    endings = [wanted] if wanted else list(get_args(Format))
    raise ExportError(
        f"the name {out} does not end in {' or '.join(f'.{ending}' for ending in endings)}",
        code="wrong_ending",
        key="out",
        remedy="give `out` such a name: the ending decides the format",
    )


def _cannot(uri: str, file_format: Format, reason: str) -> ExportError:
    return ExportError(
        f"cannot be written as {file_format}: {reason}",
        code="not_exportable",
        key=uri,
        remedy="try the other `format`",
    )


def _trace(model: nn.Module, shape: tuple[int, ...]) -> ExportedProgram:
    clips_bcthw = torch.zeros(_TRACED, *shape)
    with torch.no_grad():
        return torch.export.export(model, (clips_bcthw,), dynamic_shapes=({0: Dim("batch")},))


def _save_onnx(program: ExportedProgram, file: Path, heads: list[str], metadata: Mapping[str, str]) -> None:
    with redirect_stdout(StringIO()):  # torch prints its progress
        onnx_program: Any = torch.onnx.export(
            program, dynamo=True, input_names=["clips"], output_names=heads, verbose=False
        )
    batch = onnx_program.model.graph.inputs[0].shape[0]
    onnx_program.rename_axes({batch: "batch"})
    onnx_program.model.metadata_props.update(metadata)
    onnx_program.save(file)


def _load_onnx(file: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    heads = [output.name for output in session.get_outputs()]

    def run(clips_bcthw: Tensor) -> dict[str, Tensor]:
        logits = session.run(heads, {"clips": clips_bcthw.numpy()})
        return dict(zip(heads, map(torch.from_numpy, logits), strict=True))

    return run


def _difference(model: nn.Module, run: Run, shape: tuple[int, ...]) -> float:
    """The largest difference of the logits on random clips; NaN if any logit is."""
    generator = torch.Generator().manual_seed(0)
    found = [torch.zeros(())]
    for count in BATCHES:
        clips_bcthw = torch.randn(count, *shape, generator=generator)
        with torch.no_grad():
            expected, given = model(clips_bcthw), run(clips_bcthw)
        for head, logits_bk in expected.items():
            scale = logits_bk.abs().max().clamp(min=1)
            found.append((given[head] - logits_bk).abs().max() / scale)
    return float(torch.stack(found).max())


@contextmanager
def _explained(uri: str, file_format: Format) -> Iterator[None]:
    """Turn whatever torch raises for a network that it cannot export into an ExportError."""
    try:
        yield
    except Exception as error:
        logging.getLogger(__name__).debug("the export failed", exc_info=True)
        first: Any = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _cannot(uri, file_format, str(first)) from error
