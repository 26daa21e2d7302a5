"""What a manifest must have before clips are trained on or evaluated."""

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
    # A data set may also come as flow alone.
    alone = modality in ("flow", "flow_stack")
    lacking = sum(not flow and not (alone and is_flow_uri(uri)) for uri, flow in pairs)
    if lacking:
        raise ManifestError(
            f"{lacking} of {len(manifest)} samples in {', '.join(manifest.found)} have no optical flow"
            f"{'' if alone else ' beside their video'}, which data.modality={modality} needs",
            code="no_flow",
            key=manifest.name,
            remedy="'kineray data flow' computes it",
        )


def check_task(manifest: Manifest, heads: Iterable[str], *, training: bool = False) -> None:
    """Raise ManifestError where clips of ``manifest`` have nothing that ``heads`` could predict.

    Refused are detection sets such as AVA, where persons in boxes have the classes and the clips have none:
    their key frames would be clips of one repeated frame. With ``training`` also a head of which no clip has
    a known label.
    """
    unlabelled = [head for head in heads if not known_labels(manifest.labels(head)).any()]
    where = f"{manifest.name} ({', '.join(manifest.found)})"
    if unlabelled and len(manifest.columns.column("boxes").flatten()):
        raise ManifestError(
            f"its classes belong to persons in boxes, not to clips, so '{unlabelled[0]}' has no task",
            code="no_task",
            key=where,
            remedy="detection is not among the tasks; import a data set whose clips have labels",
        )
    if unlabelled and training:
        raise ManifestError(
            f"no clip has a known label of the head '{unlabelled[0]}'",
            code="no_labels",
            key=where,
            remedy="import the annotations with labels, or set data.heads to the heads that have some",
        )
