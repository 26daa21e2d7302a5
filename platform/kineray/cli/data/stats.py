"""``kineray data stats``."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from kineray.cli.output import decoders_option, json_option, note, show, table
from kineray.cli.progress import Progress

if TYPE_CHECKING:
    from kineray.data.derive.stats import ClassBalance, Range, SplitStats

_MAX_SHOWN = 4  # values of a list


@click.command(name="stats")
@click.argument("manifest")
@click.option(
    "--sample", type=click.IntRange(1), metavar="N", help="Measure only N videos, the same ones every time."
)
@decoders_option
@json_option
def command(manifest: str, sample: int | None, decoders: int | None, as_json: bool) -> None:
    """Measure hours, frame sizes, frame rates, classes and key frames of MANIFEST.

    Only the first frame of each video is decoded.
    """
    from kineray.data import stats
    from kineray.data.derive.stats import CLIP_S, COPY_WORTHWHILE

    with Progress("videos") as progress:
        report = stats(manifest, sample=sample, decoders=decoders, progress=progress)
    rows = [_row(split) for split in report.splits]
    lines = [
        f"{manifest}  {report.name}  {report.hash[:12]}",
        table(rows, tuple(rows[0])),
        *(line for split in report.splits for line in _lines(split)),
    ]
    then = [f"kineray train experiments/slowfast.py data.manifest={manifest}"]
    cost = report.decoded_per_wanted
    if cost is not None and cost >= COPY_WORTHWHILE:
        note(
            f"key frames are far apart: a random clip of {CLIP_S:g} s takes {cost:.1f} decoded frames per"
            " wanted frame; a training copy with more key frames is cheaper to read"
        )
        then.insert(0, f"kineray data reencode {manifest} --out FOLDER")
    if report.unreadable:
        first, reason = next(iter(report.unreadable.items()))
        note(f"{len(report.unreadable)} videos cannot be read, such as {first} ({reason})")
        then.insert(0, f"kineray data validate {manifest}")
    show(report, "\n".join(lines), as_json=as_json, then=then)


def _row(split: "SplitStats") -> dict[str, Any]:
    return {
        "split": split.split,
        "clips": split.clips,
        "missing": split.missing,
        "groups": split.groups,
        "videos": split.videos,
        "measured": split.measured,
        "hours": split.clip_hours,
        "clip seconds": _range(split.clip_s),
        "video seconds": _range(split.video_s),
    }


def _lines(split: "SplitStats") -> list[str]:
    lines = [f"\n{split.split}", *(_balance(head) for head in split.heads)]
    if split.measured:
        lines += [
            f"  sizes: {_most_frequent(split.sizes)}",
            f"  frames per second: {_most_frequent(split.frame_rates)}",
            f"  codecs: {_most_frequent(split.codecs)}",
        ]
    if split.key_gaps_s and split.key_gaps_frames and split.decoded_per_wanted:
        lines.append(
            f"  key frames: every {split.key_gaps_s[0]:.3g} s ({split.key_gaps_frames[0]:g} frames), at most"
            f" {split.key_gaps_s[1]:.3g} s ({split.key_gaps_frames[1]:g} frames) apart;"
            f" {split.decoded_per_wanted:.2f} decoded frames per wanted frame of a random clip"
        )
    return lines


def _balance(head: "ClassBalance") -> str:
    if head.per_class is None:
        return f"  {head.head}: no labels"
    line = (
        f"  {head.head}: {head.classes - len(head.absent)} of {head.classes} classes,"
        f" {_range(head.per_class)} clips per class, imbalance {head.imbalance:.3g}"
    )
    if head.absent:
        more = ", ..." if len(head.absent) > _MAX_SHOWN else ""
        line += f"; no clips of {', '.join(head.absent[:_MAX_SHOWN])}{more}"
    return line


def _range(values: "Range | None") -> str | None:
    return f"{values.min:.4g} / {values.median:.4g} / {values.max:.4g}" if values else None


def _most_frequent(counts: Mapping[str, int]) -> str:
    shown = [f"{value} ({count})" for value, count in list(counts.items())[:_MAX_SHOWN]]
    return ", ".join(shown) + (f", and {len(counts) - _MAX_SHOWN} more" if len(counts) > _MAX_SHOWN else "")
