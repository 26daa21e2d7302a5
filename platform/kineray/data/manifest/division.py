"""Splits of a manifest that keep groups whole: a source video or a person is in one split only."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kineray.data.manifest.labels import ABSENT
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample
from kineray.errors import ManifestError

_Class = tuple[str, int]  # head, class index
_ALL: _Class = ("", ABSENT)  # stands for "any sample", so that the sizes are balanced like a class


@dataclass(frozen=True)
class SplitReport:
    """One split after a division. ``wanted``, ``reached``: its share of the samples that were divided.

    ``fewest``: head -> the smallest number of samples of a class; ``absent``: head -> number of classes that
    the divided samples have but this split does not.
    """

    split: str
    samples: int
    groups: int
    wanted: float
    reached: float
    fewest: Mapping[str, int]
    absent: Mapping[str, int]


@dataclass(frozen=True)
class Division:
    """A manifest after ``divide``. ``leaks``: groups of the divided samples that are in other splits too."""

    manifest: Manifest
    splits: tuple[SplitReport, ...]
    leaks: tuple[str, ...]


def divide(
    manifest: Manifest, shares: Mapping[str, float], *, source: Sequence[str] = ("train",), seed: int = 0
) -> Division:
    """Divide the samples of the splits ``source`` again, keeping groups whole.

    ``shares``: split -> its share of those samples, between 0 and 1; the rest stays in ``source[0]``. Every
    class of every head is distributed over the splits like the samples, as far as the groups allow, and the
    size of a split differs from its share by at most the largest group for each split in ``shares``. The
    result depends on ``seed`` and on the groups, not on the order of the samples. Other samples, the order of
    the samples and the missing clips stay the same. Raises ManifestError.
    """
    wanted = _wanted(manifest, shares, source)
    divided = [sample for sample in manifest if sample.split in source]
    split_of = _assign(divided, wanted, seed)
    for name in wanted:
        if name not in split_of.values():
            raise ManifestError(
                f"the split '{name}' would be empty: {len(divided)} samples in {len(split_of)} groups are too"
                f" few for its share of {wanted[name]:g}",
                code="empty_split",
                key=manifest.name,
                remedy=f"raise the share of '{name}', or divide more splits with `source`",
            )
    samples = tuple(
        replace(sample, split=split_of[sample.group]) if sample.split in source else sample
        for sample in manifest
    )
    elsewhere = {sample.group for sample in manifest if sample.split not in source}
    reports = tuple(_report(name, wanted[name], divided, split_of) for name in wanted)
    leaks = tuple(sorted(elsewhere & split_of.keys()))
    return Division(replace(manifest, samples=samples), reports, leaks)


def _wanted(manifest: Manifest, shares: Mapping[str, float], source: Sequence[str]) -> dict[str, float]:
    """Split -> share, that of ``source[0]`` first; shares of 0 are left out."""
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ManifestError(
                "not a share", code="out_of_range", key=name, value=share, remedy="give at least 0, below 1"
            )
    above_0 = {name: share for name, share in shares.items() if share}
    if not above_0:
        raise ManifestError(
            "no share is above 0, so there is nothing to divide", code="out_of_range", key=manifest.name
        )
    if source[0] in above_0:
        raise ManifestError(
            f"'{source[0]}' keeps the rest of its samples",
            code="given_twice",
            key=source[0],
            remedy="leave out its share, or name another split first in `source`",
        )
    rest = 1 - sum(above_0.values())
    if rest < 1e-9:
        raise ManifestError(
            f"the shares add up to {sum(above_0.values()):g}, which leaves nothing for '{source[0]}'",
            code="out_of_range",
            key=manifest.name,
            remedy="lower a share",
        )
    for name in source:
        if name not in manifest.found:
            manifest.split(name)  # raises, and names the splits that there are
    for name in above_0:
        if name in manifest.found and name not in source:
            raise ManifestError(
                f"the split '{name}' already has {manifest.found[name]} samples",
                code="split_exists",
                key=manifest.name,
                remedy=f"name {source[0]} and {name} in `source` to divide those too",
            )
    return {source[0]: rest, **above_0}


def _assign(samples: Iterable[Sample], wanted: Mapping[str, float], seed: int) -> dict[str, str]:
    """Group -> split: large groups first, each to the split that most needs its classes.

    The goal of a split is ``share * count`` samples of every class. Adding g samples to n with a goal of d
    changes ``(n - d)^2 / d`` by ``g (2 (n - d) + g) / d``; a group goes to the split for which the sum of
    this over the classes of the group is lowest. With groups of one sample and one class this is the
    Sainte-Lague method of apportioning seats. A split that has reached its size takes no more groups.
    """
    contents: dict[str, Counter[_Class]] = defaultdict(Counter)
    totals: Counter[_Class] = Counter()
    for sample in samples:
        contents[sample.group].update(_classes(sample))
        totals.update(_classes(sample))
    filled: dict[str, Counter[_Class]] = {name: Counter() for name in wanted}

    def cost(split: str, group: Counter[_Class]) -> float:
        changes = []
        for key, added in sorted(group.items()):
            goal = wanted[split] * totals[key]
            changes.append(added * (2 * (filled[split][key] - goal) + added) / goal)
        return sum(changes)

    def rank(group: str) -> tuple[int, bytes]:
        # Groups whose sizes differ by less than a factor of two are in random order, so that seeds matter.
        key = f"{seed}\0{group}".encode()
        return -contents[group][_ALL].bit_length(), hashlib.sha256(key).digest()

    split_of: dict[str, str] = {}
    for group in sorted(contents, key=rank):
        open_splits = [name for name in wanted if filled[name][_ALL] < wanted[name] * totals[_ALL]]
        # Because of rounding, every split can be full just before the last group.
        cheapest = min(open_splits or wanted, key=lambda name: cost(name, contents[group]))
        filled[cheapest].update(contents[group])
        split_of[group] = cheapest
    return split_of


def _classes(sample: Sample) -> set[_Class]:
    """The classes of a sample, including those of its boxes (of the first head)."""
    classes = {_ALL}
    for head, label in sample.labels.items():
        several = (label,) if isinstance(label, int) else label or ()
        classes.update((head, index) for index in several if index != ABSENT)
    if sample.boxes:
        first = next(iter(sample.labels))
        classes.update((first, label) for box in sample.boxes for label in box.labels)
    return classes


def _report(name: str, share: float, divided: Sequence[Sample], split_of: Mapping[str, str]) -> SplitReport:
    all_classes = {key for sample in divided for key in _classes(sample)}
    in_split = [sample for sample in divided if split_of[sample.group] == name]
    counts = Counter(key for sample in in_split for key in _classes(sample))
    heads = sorted({head for head, _ in all_classes} - {_ALL[0]})
    per_head = {head: [counts[key] for key in all_classes if key[0] == head] for head in heads}
    return SplitReport(
        split=name,
        samples=len(in_split),
        groups=len({sample.group for sample in in_split}),
        wanted=share,
        reached=len(in_split) / len(divided),
        fewest={head: min(classes) for head, classes in per_head.items()},
        absent={head: classes.count(0) for head, classes in per_head.items()},
    )
