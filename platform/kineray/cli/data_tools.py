"""``kineray data stats | split``."""

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from kineray.cli.output import duration, json_option, note, show, table
from kineray.errors import ManifestError

if TYPE_CHECKING:
    from kineray.data.stats import ClassBalance, Range, SplitStats

_SHOWN = 4  # values of a long list

workers_option = click.option(
    "--workers", type=click.IntRange(1), help="Processes that read videos [default: one per core]."
)


@click.command(name="stats")
@click.argument("manifest")
@click.option("--sample", type=click.IntRange(1), metavar="N", help="Measure N videos, always the same ones.")
@workers_option
@json_option
def stats_command(manifest: str, sample: int | None, workers: int | None, as_json: bool) -> None:
    """Say what MANIFEST holds: hours, sizes, frame rates, classes, key frames; nothing is decoded."""
    from kineray.data import load_manifest
    from kineray.data.stats import CLIP_S, DEAR, stats

    loaded = load_manifest(manifest)
    with _Progress("videos") as progress:
        found = stats(loaded, sample=sample, workers=workers or _cores(), progress=progress)
    rows = [_stats_row(split) for split in found.splits]
    text = [
        f"{manifest}  {loaded.name}  {loaded.content_hash[:12]}",
        table(rows, tuple(rows[0])),
        *(line for split in found.splits for line in _stats_lines(split)),
    ]
    result = asdict(found) | {"manifest": manifest, "hash": loaded.content_hash}
    next_commands = [f"kineray train experiments/slowfast.py data.manifest={manifest}"]
    cost = found.decoded_per_wanted
    if cost is not None and cost >= DEAR:
        note(
            f"key frames are far apart: a random clip of {CLIP_S:g} s decodes {cost:.1f} frames for each"
            " frame that it wants; a training copy with more key frames is cheaper to read"
        )
        next_commands.insert(0, f"kineray data reencode {manifest} --out FOLDER")
    if found.unreadable:
        first, reason = next(iter(found.unreadable.items()))
        note(f"{len(found.unreadable)} videos cannot be read, such as {first} ({reason})")
        next_commands.insert(0, f"kineray data validate {manifest}")
    show(result, "\n".join(text), as_json=as_json, then=tuple(next_commands))


@click.command(name="split")
@click.argument("manifest")
@click.option("--out", required=True, metavar="FILE", help="The manifest to write.")
@click.option("--val", type=click.FloatRange(0, 1, max_open=True), default=0.1, show_default=True)
@click.option("--test", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True)
@click.option(
    "--from",
    "source",
    multiple=True,
    default=("train",),
    show_default=True,
    metavar="SPLIT",
    help="Divide this split; may be repeated. The first one keeps the rest.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def split_command(
    manifest: str, out: str, val: float, test: float, source: tuple[str, ...], seed: int, as_json: bool
) -> None:
    """Divide MANIFEST into train, val and test so that no group (video, person) is in two of them.

    --val and --test are shares of the samples of --from; classes are spread as evenly as the groups allow.
    """
    from kineray.data import load_manifest, save_manifest
    from kineray.data.split import divide

    target = _manifest_name("--out", out)
    division = divide(load_manifest(manifest), {"val": val, "test": test}, source=source, seed=seed)
    save_manifest(division.manifest, target)
    rows = [
        {
            "split": report.split,
            "samples": report.samples,
            "groups": report.groups,
            "wanted": f"{report.wanted:.1%}",
            "reached": f"{report.reached:.1%}",
            "fewest per class": _by_head(report.fewest),
            "classes absent": _by_head(report.absent),
        }
        for report in division.splits
    ]
    if division.leaks:
        note(
            f"{len(division.leaks)} of the groups, such as {division.leaks[0]}, are also in a split"
            " that was not divided"
        )
    result = {
        "manifest": target,
        "hash": division.manifest.content_hash,
        "splits": [asdict(report) for report in division.splits],
        "leaks": list(division.leaks),
    }
    text = f"{target}  {division.manifest.name}  {result['hash'][:12]}\n{table(rows, tuple(rows[0]))}"
    train = f"kineray train experiments/slowfast.py data.manifest={target}"
    show(result, text, as_json=as_json, then=(f"kineray data show {target}", train))


def _stats_row(split: "SplitStats") -> dict[str, Any]:
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


def _stats_lines(split: "SplitStats") -> list[str]:
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
        more = ", ..." if len(head.absent) > _SHOWN else ""
        line += f"; no clips of {', '.join(head.absent[:_SHOWN])}{more}"
    return line


def _range(values: "Range | None") -> str | None:
    return f"{values.min:.4g} / {values.median:.4g} / {values.max:.4g}" if values else None


def _most_frequent(counts: Mapping[str, int]) -> str:
    shown = [f"{value} ({count})" for value, count in list(counts.items())[:_SHOWN]]
    return ", ".join(shown) + (f", and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else "")


def _by_head(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{head} {count}" for head, count in counts.items()) or "-"


def _manifest_name(option: str, path: str) -> str:
    """``path`` if it is the name of a manifest. Raises ManifestError."""
    if not path.endswith(".parquet"):
        raise ManifestError(f"{option} {path}: the name of a manifest must end in .parquet")
    return path


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Progress:
    """Says on stderr how far long work is: a live line on a terminal, now and then a line elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._live = sys.stderr.isatty()
        self._every_s = 0.2 if self._live else 10.0
        self._start = self._last = time.monotonic()
        self._open_line = False

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._open_line:
            click.echo(err=True)

    def __call__(self, done: int, total: int, more: str = "") -> None:
        now = time.monotonic()
        if now - self._last < self._every_s and not (self._live and done == total):
            return
        self._last = now
        rate = done / max(now - self._start, 1e-9)
        left = duration((total - done) / rate) if rate else "?"
        text = f"{done} of {total} {self._what}  {rate:.1f}/s  {left} left{more}"
        click.echo("\r\033[K" + text if self._live else text, nl=not self._live, err=True)
        self._open_line = self._live
