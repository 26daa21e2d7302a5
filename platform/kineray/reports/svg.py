"""Small figures as SVG, for pages that need no other file and no program to be read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 34
_STRONG, _WEAK = "#b5123f", "#4a7a94"

Point = tuple[float, float]


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    begin: float
    end: float

    @classmethod
    def of(cls, values: Sequence[float], begin: float, end: float) -> "_Axis":
        low, high = min(values), max(values)
        return cls(low, high, begin, end)

    def place(self, value: float) -> float:
        """Pixels; the middle if all values are equal."""
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return self.begin + share * (self.end - self.begin)


def curves(lines: Sequence[Sequence[Point]], x_name: str, y_name: str) -> str:
    """Lines, of which the first one stands out. Empty if there are no points."""
    points = [point for line in lines for point in line]
    if not points:
        return ""
    x, y = _axes(points)
    drawn = [
        f'<polyline points="{" ".join(f"{x.place(a):.1f},{y.place(b):.1f}" for a, b in line)}" '
        f'style="fill:none;stroke:{_STRONG if number == 0 else _WEAK};'
        f'stroke-width:{2 if number == 0 else 1};opacity:{1 if number == 0 else 0.5}"/>'
        for number, line in reversed(list(enumerate(lines)))
    ]
    return _figure([*_frame(x, y, x_name, y_name), *drawn], f"{y_name} over {x_name}")


def points(found: Sequence[Point], x_name: str, y_name: str, marked: Sequence[Point] = ()) -> str:
    """A point each; ``marked`` ones stand out and are joined. Empty if there are no points."""
    if not found:
        return ""
    x, y = _axes(found)
    drawn = [
        f'<circle cx="{x.place(a):.1f}" cy="{y.place(b):.1f}" r="3" style="fill:{_WEAK};opacity:.7"/>'
        for a, b in found
    ]
    if marked:
        path = " ".join(f"{x.place(a):.1f},{y.place(b):.1f}" for a, b in marked)
        drawn.append(f'<polyline points="{path}" style="fill:none;stroke:{_STRONG};stroke-width:1.5"/>')
        drawn += [
            f'<circle cx="{x.place(a):.1f}" cy="{y.place(b):.1f}" r="4" style="fill:{_STRONG}"/>'
            for a, b in marked
        ]
    return _figure([*_frame(x, y, x_name, y_name), *drawn], f"{y_name} over {x_name}")


def bars(values: Mapping[str, float], name: str) -> str:
    """Horizontal bars from 0 to 1, named on their left. Empty without values."""
    if not values:
        return ""
    left, row = 230, 22
    drawn = []
    for number, (label, value) in enumerate(values.items()):
        top, width = number * row + 4, max(value, 0.0) * (_WIDTH - left - 60)
        drawn.append(f'<text x="{left - 8}" y="{top + 12}" text-anchor="end">{escape(label)}</text>')
        drawn.append(
            f'<rect x="{left}" y="{top}" width="{width:.1f}" height="{row - 8}" style="fill:{_WEAK}"/>'
        )
        drawn.append(f'<text x="{left + width + 6:.1f}" y="{top + 12}">{value:.2f}</text>')
    return _figure(drawn, name, height=row * len(values) + 8)


def parallel(rows: Sequence[Mapping[str, float]], names: Sequence[str], labels: Mapping[str, Point]) -> str:
    """Parallel coordinates: a line for each row over the axes ``names``, from 0 (below) to 1.

    The first row stands out. A row without an axis leaves it out. ``labels``: the values at the ends of each
    axis. Empty with fewer than two axes.
    """
    if len(names) < 2 or not rows:
        return ""
    floor, gap = _HEIGHT - _BOTTOM, (_WIDTH - 2 * _LEFT) / (len(names) - 1)
    x = {name: _LEFT + number * gap for number, name in enumerate(names)}
    drawn = []
    for name in names:
        drawn.append(f'<path d="M{x[name]:.1f},{_TOP + 8}V{floor}" style="stroke:#999"/>')
        short = name.rpartition(".")[2]
        drawn.append(f'<text x="{x[name]:.1f}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(short)}</text>')
        for value, y in zip(labels[name], (floor + 12, _TOP + 4), strict=True):
            drawn.append(f'<text x="{x[name]:.1f}" y="{y}" text-anchor="middle">{escape(f"{value}")}</text>')
    for number, row in reversed(list(enumerate(rows))):
        path = " ".join(
            f"{x[name]:.1f},{floor - row[name] * (floor - _TOP - 8):.1f}" for name in names if name in row
        )
        style = f"stroke:{_STRONG};stroke-width:2" if number == 0 else f"stroke:{_WEAK};opacity:.35"
        drawn.append(f'<polyline points="{path}" style="fill:none;{style}"/>')
    return _figure(drawn, "parallel coordinates of the trials")


def matrix(shares: Sequence[Sequence[float]], classes: Sequence[str]) -> str:
    """A confusion matrix: the share of each true class (row) that is taken for each class (column)."""
    left, cell = 150, max(min(24, 480 // len(classes)), 3)
    named = cell >= 10
    drawn = []
    for row, (name, values) in enumerate(zip(classes, shares, strict=True)):
        if named:
            drawn.append(
                f'<text x="{left - 6}" y="{row * cell + cell * 0.75:.1f}" text-anchor="end">'
                f"{escape(name[:22])}</text>"
            )
        for column, share in enumerate(values):
            colour = _STRONG if row == column else _WEAK
            drawn.append(
                f'<rect x="{left + column * cell}" y="{row * cell}" width="{cell}" height="{cell}" '
                f'style="fill:{colour};fill-opacity:{share:.2f};stroke:#ddd;stroke-width:.5">'
                f"<title>{escape(name)} as {escape(classes[column])}: {share:.0%}</title></rect>"
            )
    return _figure(drawn, "confusion matrix", height=cell * len(classes) + 4)


def _axes(found: Sequence[Point]) -> tuple[_Axis, _Axis]:
    x = _Axis.of([a for a, _ in found], _LEFT, _WIDTH - _RIGHT)
    return x, _Axis.of([b for _, b in found], _HEIGHT - _BOTTOM, _TOP)


def _frame(x: _Axis, y: _Axis, x_name: str, y_name: str) -> list[str]:
    floor = _HEIGHT - _BOTTOM
    return [
        f'<path d="M{_LEFT},{_TOP}V{floor}H{_WIDTH - _RIGHT}" style="fill:none;stroke:#999"/>',
        f'<text x="{_LEFT - 6}" y="{_TOP + 8}" text-anchor="end">{y.high:.3g}</text>',
        f'<text x="{_LEFT - 6}" y="{floor}" text-anchor="end">{y.low:.3g}</text>',
        f'<text x="{_LEFT}" y="{floor + 14}">{x.low:.3g}</text>',
        f'<text x="{_WIDTH - _RIGHT}" y="{floor + 14}" text-anchor="end">{x.high:.3g}</text>',
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x_name)}</text>',
        f'<text x="14" y="{floor / 2 + _TOP}" text-anchor="middle" '
        f'transform="rotate(-90 14 {floor / 2 + _TOP})">{escape(y_name)}</text>',
    ]


def _figure(drawn: Sequence[str], name: str, height: int = _HEIGHT) -> str:
    return (
        f'<svg role="img" aria-label="{escape(name)}" viewBox="0 0 {_WIDTH} {height}">{"".join(drawn)}</svg>'
    )
