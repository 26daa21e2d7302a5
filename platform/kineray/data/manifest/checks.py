"""What a manifest must contain before clips are trained on or evaluated."""

from collections.abc import Iterable

from kineray.config.fields import Modality
from kineray.data.manifest.labels import known_labels
from kineray.data.manifest.manifest import Manifest
from kineray.errors import ManifestError
from kineray.video import is_flow_uri


def check_flow(manifest: Manifest, modality: Modality) -> None:
    """Raise ManifestError unless every sample has the optical flow that clips of ``modality`` need."""
    if modality == "rgb":
        return
    columns = manifest.columns
    pairs = zip(columns.column("uri").to_pylist(), columns.column("flow").to_pylist(), strict=True)
    flow_only = modality in ("flow", "flow_stack")  # a data set may also consist of flow only
    lacking = sum(not flow and not (flow_only and is_flow_uri(uri)) for uri, flow in pairs)
    if lacking:
        raise ManifestError(
            f"{lacking} of {len(manifest)} samples in {', '.join(manifest.found)} have no optical flow"
            f"{'' if flow_only else ' beside their video'}, which data.modality={modality} needs",
            code="no_flow",
            key=manifest.name,
            remedy="compute it with 'kineray data flow'",
        )


def check_task(manifest: Manifest, heads: Iterable[str], *, training: bool = False) -> None:
    """Raise ManifestError if clips of ``manifest`` have nothing that ``heads`` could predict.

    Detection sets such as AVA are refused: their classes belong to persons in boxes, not to clips, and their
    key frames would become clips of one repeated frame. With ``training``, heads without any known label are
    refused too.
    """
    unlabelled = [head for head in heads if not known_labels(manifest.labels(head)).any()]
    named = f"{manifest.name} ({', '.join(manifest.found)})"
    if unlabelled and len(manifest.columns.column("boxes").flatten()):
        raise ManifestError(
            f"its classes belong to persons in boxes, not to clips, so '{unlabelled[0]}' has no task",
            code="no_task",
            key=named,
            remedy="detection is not among the tasks; import a data set whose clips have labels",
        )
    if unlabelled and training:
        raise ManifestError(
            f"no clip has a known label for the head '{unlabelled[0]}'",
            code="no_labels",
            key=named,
            remedy="import annotations with labels, or set data.heads to the heads that have labels",
        )
