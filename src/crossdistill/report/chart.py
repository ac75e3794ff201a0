"""Charts as inline SVG: text stays text, colours follow the theme of the page, and nothing is loaded or run.

They are drawn at the width of a phone, so that their text is as large as the page's anywhere. A series is a number: it
has a colour of the page's palette, a shape and a dash, so that colour is never the only difference.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

WIDTH = 356
HEIGHT = 230
_TOP, _RIGHT, _BOTTOM, _LEFT = 8, 12, 38, 52
_COLORS = 8
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
# Of the text, pixels per character; enough to keep names within their margin.
_CHARACTER = 6.4
_LONGEST_NAME = 19


@dataclass(frozen=True)
class Axis:
    """A numeric axis.

    Attributes:
        label: what it shows, with its unit.
        low: its lower end.
        high: its upper end.
    """

    label: str
    low: float
    high: float

    @classmethod
    def around(cls, label: str, values: Sequence[float], *, include: float | None = None) -> "Axis":
        """An axis that holds these values with a little room."""
        every = [*values, *([] if include is None else [include])]
        low, high = min(every), max(every)
        if low == high:
            room = 0.05 * abs(high) or 1.0
            return cls(label, low - room, high + room)
        room = 0.06 * (high - low)
        return cls(label, low if low == include else low - room, high if high == include else high + room)

    def ticks(self, count: int = 5) -> list[float]:
        """Round numbers along it."""
        rough = (self.high - self.low) / count
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass
class Chart:
    """A frame with axes, into which series are drawn.

    Attributes:
        label: what it shows, for those who do not see it.
        x: the horizontal axis.
        y: the vertical one, or names from the top down.
        height: in pixels.
    """

    label: str
    x: Axis
    y: Axis | Sequence[str]
    height: float = HEIGHT
    _marks: list[Markup] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._left: float = _LEFT
        if not isinstance(self.y, Axis):
            longest = max((min(len(name), _LONGEST_NAME) for name in self.y), default=1)
            self._left = 12 + _CHARACTER * longest

    def at_x(self, value: float) -> float:
        """Pixels from the left of a value."""
        share = (value - self.x.low) / (self.x.high - self.x.low)
        return round(self._left + share * (WIDTH - _RIGHT - self._left), 1)

    def at_y(self, value: float) -> float:
        """Pixels from the top of a value, or of the name at this position."""
        inner = self.height - _TOP - _BOTTOM
        if isinstance(self.y, Axis):
            return round(_TOP + (1 - (value - self.y.low) / (self.y.high - self.y.low)) * inner, 1)
        return round(_TOP + (value + 0.5) / len(self.y) * inner, 1)

    def line(self, points: Sequence[tuple[float, float]], series: int) -> None:
        """A line through points."""
        path = " ".join(f"{self.at_x(x)},{self.at_y(y)}" for x, y in points)
        mark = '<polyline class="line s{}" stroke-dasharray="{}" points="{}"/>'
        self._marks.append(Markup(mark).format(series % _COLORS, _DASHES[series // _COLORS % len(_DASHES)], path))

    def band(self, points: Sequence[tuple[float, float, float]], series: int) -> None:
        """The area between two lines; points are (x, low, high)."""
        there = [f"{self.at_x(x)},{self.at_y(low)}" for x, low, _ in points]
        back = [f"{self.at_x(x)},{self.at_y(high)}" for x, _, high in reversed(points)]
        self._marks.append(
            Markup('<polygon class="band s{}" points="{}"/>').format(series % _COLORS, " ".join(there + back))
        )

    def point(self, x: float, y: float, series: int, title: str, size: float = 4.5) -> None:
        """A point; the title is shown where the pointer rests."""
        shape = Markup('<path class="point s{}" d="{}"><title>{}</title></path>')
        self._marks.append(shape.format(series % _COLORS, _shape(self.at_x(x), self.at_y(y), size, series), title))

    def segment(self, low: tuple[float, float], high: tuple[float, float], kind: str) -> None:
        """A straight line from point to point, of a class of the style sheet."""
        (x1, y1), (x2, y2) = low, high
        mark = Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>')
        self._marks.append(mark.format(kind, self.at_x(x1), self.at_y(y1), self.at_x(x2), self.at_y(y2)))

    def mean(self, x: float, row: int, series: int) -> None:
        """A short upright line in the row of a name."""
        x, y = self.at_x(x), self.at_y(row)
        mark = '<line class="mean s{}" x1="{}" y1="{}" x2="{}" y2="{}"/>'
        self._marks.append(Markup(mark).format(series % _COLORS, x, y - 8, x, y + 8))

    def bar(self, value: float, row: int, kind: str, title: str) -> None:
        """A bar from 0 in the row of a name."""
        start, end = sorted((self.at_x(0), self.at_x(value)))
        mark = '<rect class="bar {}" x="{}" y="{}" width="{}" height="11"><title>{}</title></rect>'
        width = max(round(end - start, 1), 0.5)
        self._marks.append(Markup(mark).format(kind, start, self.at_y(row) - 5.5, width, title))

    def words(self, x: float, y: float, text: str) -> None:
        """A short text beside a point."""
        mark = '<text x="{}" y="{}" class="tick">{}</text>'
        self._marks.append(Markup(mark).format(self.at_x(x) + 7, self.at_y(y) + 4, text))

    def svg(self) -> Markup:
        """The markup."""
        return drawing(WIDTH, self.height, self.label, [*self._frame(), *self._marks])

    def _frame(self) -> list[Markup]:
        bottom, right = self.height - _BOTTOM, WIDTH - _RIGHT
        parts: list[Markup] = []
        grid = Markup('<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/>')
        text = Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>')
        ticks = self.x.ticks()
        for tick, said in zip(ticks, in_words(ticks), strict=True):
            x = self.at_x(tick)
            parts += [grid.format(x, _TOP, x, bottom), text.format(x, bottom + 14, "middle", said)]
        if isinstance(self.y, Axis):
            ticks = self.y.ticks()
            for tick, said in zip(ticks, in_words(ticks), strict=True):
                y = self.at_y(tick)
                parts += [grid.format(self._left, y, right, y), text.format(self._left - 6, y + 4, "end", said)]
            turned = Markup('<text x="{}" y="{}" text-anchor="middle" transform="rotate(-90 {} {})">{}</text>')
            middle = (_TOP + bottom) / 2
            parts.append(turned.format(10, middle, 10, middle, self.y.label))
        else:
            for row, name in enumerate(self.y):
                y = self.at_y(row)
                parts += [grid.format(self._left, y, right, y), name_at(self._left - 8, y + 4, name, "end")]
        label = Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>')
        parts.append(label.format((self._left + right) / 2, self.height - 6, self.x.label))
        return parts


def drawing(width: float, height: float, label: str, parts: Sequence[Markup]) -> Markup:
    """An SVG element of marks."""
    opening = Markup('<svg width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img" aria-label="{2}">')
    return opening.format(round(width), round(height), label) + Markup("").join(parts) + Markup("</svg>")


def name_at(x: float, y: float, name: str, anchor: str, longest: int = _LONGEST_NAME, kind: str = "") -> Markup:
    """A name, cut where it is too long; whole where the pointer rests."""
    shown = name if len(name) <= longest else name[: longest - 1] + "…"
    mark = '<text x="{}" y="{}" text-anchor="{}" class="{}">{}<title>{}</title></text>'
    return Markup(mark).format(x, y, anchor, kind, shown, name)


def key(series: int) -> Markup:
    """What a series looks like, for a legend."""
    dash = _DASHES[series // _COLORS % len(_DASHES)]
    mark = (
        '<svg width="26" height="12" viewBox="0 0 26 12" aria-hidden="true" class="s{}">'
        '<line class="line" stroke-dasharray="{}" x1="0" y1="6" x2="26" y2="6"/><path class="point" d="{}"/></svg>'
    )
    return Markup(mark).format(series % _COLORS, dash, _shape(13, 6, 4.5, series))


def in_words(ticks: Sequence[float]) -> list[str]:
    """The numbers of an axis, all with as many decimals as their step needs."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{0 if abs(tick) < step / 1e6 else tick:,.{decimals}f}" for tick in ticks]


def _shape(x: float, y: float, r: float, series: int) -> str:
    """A circle, square, diamond or triangle as a path."""
    kind = series % 4
    if kind == 0:
        return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"
    if kind == 1:
        s = 0.88 * r
        return f"M{x - s:.1f} {y - s:.1f}h{2 * s:.1f}v{2 * s:.1f}h{-2 * s:.1f}z"
    if kind == 2:
        s = 1.25 * r
        return f"M{x:.1f} {y - s:.1f}l{s:.1f} {s:.1f}l{-s:.1f} {s:.1f}l{-s:.1f} {-s:.1f}z"
    s = 1.15 * r
    return f"M{x:.1f} {y - s:.1f}l{s:.1f} {1.8 * s:.1f}h{-2 * s:.1f}z"
