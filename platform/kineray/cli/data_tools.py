"""``kineray data validate | stats | split``."""

import collections
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from kineray.cli.output import (
    Progress,
    duration,
    json_option,
    note,
    show,
    table,
    usable_cores,
    workers_option,
)
from kineray.errors import ManifestError

if TYPE_CHECKING:
    from kineray.data import Manifest
    from kineray.data.derive.stats import ClassBalance, Range, SplitStats

_SHOWN = 4  # values of a long list


@click.command(name="validate")
@click.argument("manifest")
@click.option("--full", is_flag=True, help="Decode every frame, not only the first, middle and last one.")
@click.option(
    "--out", metavar="FILE", help="The quarantine list [default: MANIFEST's name .quarantine.csv, beside it]."
)
@click.option(
    "--clean", metavar="FILE", help="Write a manifest without the bad clips, which count as missing."
)
@workers_option
@json_option
def validate_command(
    manifest: str, full: bool, out: str | None, clean: str | None, workers: int | None, as_json: bool
) -> int:
    """Open every video of MANIFEST and list those that are damaged, and clips that are not in theirs.

    Exit code 0: all can be read; 1: some cannot, see the quarantine list; 2: the check itself failed.
    """
    from kineray.data import load_manifest, save_manifest
    from kineray.data.derive.validate import drop_samples, quarantine_path, validate, write_quarantine
    from kineray.data.manifest import index_cache

    target = out or quarantine_path(manifest)
    cleaned = _manifest_name("--clean", clean) if clean else None
    loaded = load_manifest(manifest)
    start = time.monotonic()
    with Progress("videos") as progress:
        found = validate(
            loaded,
            every=full,
            workers=workers or usable_cores(),
            progress=lambda done, total, bad: progress(done, total, f"  {bad} bad"),
        )
    seconds = time.monotonic() - start
    write_quarantine(found.problems, target)
    if found.indexes:
        index_cache.write(manifest, found.indexes)
    bad = found.bad_samples
    if cleaned:
        good = drop_samples(loaded, bad)
        save_manifest(good, cleaned)
        if found.indexes:
            index_cache.write(
                cleaned, {uri: found.indexes[uri] for uri in _uris(good) & found.indexes.keys()}
            )
    bad_in = collections.Counter(sample.split for sample in loaded if bad and sample.id in bad)
    rows: list[dict[str, Any]] = [
        {
            "split": split,
            "usable": loaded.found.get(split, 0) - bad_in[split],
            "bad": bad_in[split],
            "listed": count,
        }
        for split, count in loaded.listed.items()
    ]
    result = {
        "manifest": manifest,
        "quarantine": target,
        "clean": cleaned,
        "videos": found.videos,
        "videos_per_s": found.videos / seconds,
        "codes": found.codes,
        "splits": rows,
        "problems": [asdict(problem) for problem in found.problems],
    }
    text = [
        f"{found.videos} videos in {duration(seconds)}, {found.videos / seconds:.1f}/s",
        table(rows, tuple(rows[0])),
        *(f"{code}: {count} clips" for code, count in found.codes.items()),
    ]
    if bad:
        text.append(f"{len(bad)} clips cannot be used; {target} says why")
    best = cleaned or manifest
    then = [f"kineray data stats {best}", f"kineray train experiments/slowfast.py data.manifest={best}"]
    if bad and not cleaned:
        then.insert(0, f"kineray data validate {manifest} --clean FILE")
    show(result, "\n".join(text), as_json=as_json, then=tuple(then))
    return 1 if bad else 0


@click.command(name="stats")
@click.argument("manifest")
@click.option("--sample", type=click.IntRange(1), metavar="N", help="Measure N videos, always the same ones.")
@workers_option
@json_option
def stats_command(manifest: str, sample: int | None, workers: int | None, as_json: bool) -> None:
    """Say what MANIFEST holds: hours, sizes, frame rates, classes, key frames; nothing is decoded."""
    from kineray.data import load_manifest
    from kineray.data.derive.stats import CLIP_S, DEAR, stats
    from kineray.data.manifest.index_cache import IndexCache

    loaded = load_manifest(manifest)
    with Progress("videos") as progress:
        found = stats(
            loaded,
            sample=sample,
            indexes=IndexCache.beside(manifest),
            workers=workers or usable_cores(),
            progress=progress,
        )
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
    from kineray.data.derive.split import divide

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


def _uris(manifest: "Manifest") -> set[str]:
    return set(manifest.columns.column("uri").to_pylist())
