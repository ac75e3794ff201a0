"""The charts of a page."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from torch import Tensor

from crossdistill.report.chart import Axis, Chart, drawing, name_at
from crossdistill.report.curves import Curve
from crossdistill.report.judged import Bin
from crossdistill.report.page import Figure
from crossdistill.study.results import RowResult

_ROW_HEIGHT = 26
_AROUND_ROWS = 52
# Points of a curve that are marked; more would hide the line.
_MOST_MARKED = 15
# More classes than this make no matrix or bars that can be read.
MOST_CLASSES = 20


def each_seed(rows: Sequence[RowResult], metric: str) -> Figure:
    """Every run as a point, and the mean of each row."""
    rows_there = [(k, row) for k, row in enumerate(rows) if row.runs]
    values = [run.value for _, row in rows_there for run in row.runs]
    chart = Chart("every seed of every row", Axis.around(metric, values), [row.name for _, row in rows_there])
    chart.height = _AROUND_ROWS + _ROW_HEIGHT * len(rows_there)
    for place, (series, row) in enumerate(rows_there):
        if row.mean is not None:
            chart.mean(row.mean, place, series)
        for run in row.runs:
            chart.point(run.value, place, series, f"{row.name}, seed {run.seed}: {run.value:.2f}")
    return Figure("Every seed", chart.svg(), caption="A point is a run, the bar its row's mean.")


def differences(rows: Sequence[RowResult], baseline: str) -> Figure | None:
    """Mean differences to a baseline with their intervals; None where there are none."""
    found = [(k, row, one) for k, row in enumerate(rows) if (one := row.difference(baseline)) is not None]
    if not found:
        return None
    ends = [end for _, _, one in found for end in (one.interval or (one.mean, one.mean))]
    values = [*ends, *(value for _, _, one in found for value in one.values)]
    axis = Axis.around(f"difference to {baseline}, points", values, include=0.0)
    axis = Axis(axis.label, axis.low - 0.02 * (axis.high - axis.low), axis.high + 0.02 * (axis.high - axis.low))
    chart = Chart(f"differences to {baseline}", axis, [row.name for _, row, _ in found])
    chart.height = _AROUND_ROWS + _ROW_HEIGHT * len(found)
    chart.segment((0, -0.5), (0, len(found) - 0.5), "zero")
    for place, (series, row, one) in enumerate(found):
        said = f"{row.name}: {one.mean:+.2f}"
        if one.interval is not None:
            low, high = one.interval
            said += f" [{low:+.2f}, {high:+.2f}]"
            chart.segment((low, place), (high, place), f"line s{series % 8}")
        chart.point(one.mean, place, series, f"{said} {one.verdict}", size=5.5)
    caption = "The mean over seeds with its 95 % interval; where the interval covers 0 the two are level."
    return Figure(f"Difference to {baseline}", chart.svg(), caption=caption)


def value_by_time(rows: Sequence[RowResult], metric: str) -> Figure:
    """What a row reaches against how long it trains."""
    found = [(k, row) for k, row in enumerate(rows) if row.runs]
    seconds = [run.summary["seconds"] for _, row in found for run in row.runs]
    minutes = max(seconds) > 300
    unit, scale = ("min", 60.0) if minutes else ("s", 1.0)
    values = [run.value for _, row in found for run in row.runs]
    x = Axis.around(f"training of a run, {unit}", [one / scale for one in seconds], include=0.0)
    chart = Chart(f"{metric} against training time", x, Axis.around(metric, values))
    for series, row in found:
        for run in row.runs:
            said = f"{row.name}, seed {run.seed}: {run.value:.2f} after {run.summary['seconds']:.0f} s"
            chart.point(run.summary["seconds"] / scale, run.value, series, said)
    legend = [(series, row.name) for series, row in found]
    return Figure("Accuracy against training time", chart.svg(), legend, "Evaluations are not counted.")


def lines(
    title: str, curves: Mapping[str, tuple[int, Curve]], x: str, y: str, caption: str = "", *, zero: bool = False
) -> Figure:
    """Curves by name, each with the number of its series; a band where several seeds differ."""
    every = [point for _, curve in curves.values() for point in curve]
    heights = [end for point in every for end in (point.low, point.high)]
    horizontal = Axis(x, min(point.x for point in every), max(point.x for point in every))
    chart = Chart(title, horizontal, Axis.around(y, heights, include=0.0 if zero else None))
    for series, curve in curves.values():
        if any(point.high > point.low for point in curve):
            chart.band([(point.x, point.low, point.high) for point in curve], series)
    for series, curve in curves.values():
        chart.line([(point.x, point.mean) for point in curve], series)
        if len(curve) <= _MOST_MARKED:
            for point in curve:
                chart.point(point.x, point.mean, series, f"{point.mean:.4g} at {point.x:g}", size=2.6)
    legend = [(series, name) for name, (series, _) in curves.items()] if len(curves) > 1 else []
    return Figure(title, chart.svg(), legend, caption)


def calibration(found: Mapping[str, tuple[int, list[Bin]]], errors: Mapping[str, float | None]) -> Figure:
    """Accuracy against confidence."""
    chart = Chart("accuracy against confidence", Axis("confidence, %", 0, 100), Axis("right answers, %", 0, 100))
    chart.segment((0, 0), (100, 100), "zero")
    for series, bins in found.values():
        chart.line([(one.confidence, one.accuracy) for one in bins], series)
        for one in bins:
            said = f"{one.accuracy:.1f} % right at {one.confidence:.1f} % confidence, {one.images:,} answers"
            chart.point(one.confidence, one.accuracy, series, said, size=3)
    legend = []
    for name, (series, _) in found.items():
        error = errors.get(name)
        legend.append((series, name if error is None else f"{name} (ECE {error:.1f} %)"))
    caption = "On the dashed line confidence is right; below it the model is too sure of itself."
    return Figure("Calibration", chart.svg(), legend, caption)


def class_changes(changes: Mapping[str, float], title: str) -> Figure:
    """Points of top-1 by class, gains first; of many classes the ends."""
    ordered = sorted(changes.items(), key=lambda item: -item[1])
    caption = ""
    if len(ordered) > MOST_CLASSES:
        ends = MOST_CLASSES // 2
        caption = f"The {ends} greatest gains and the {ends} greatest losses of {len(ordered):,} classes."
        ordered = ordered[:ends] + ordered[-ends:]
    axis = Axis.around("points of top-1", [value for _, value in ordered], include=0.0)
    chart = Chart(title, axis, [name for name, _ in ordered])
    chart.height = _AROUND_ROWS + 20 * len(ordered)
    for place, (name, value) in enumerate(ordered):
        chart.bar(value, place, "gain" if value >= 0 else "loss", f"{name}: {value:+.1f}")
    chart.segment((0, -0.5), (0, len(ordered) - 0.5), "zero")
    return Figure(title, chart.svg(), caption=caption)


def matrix(counts: Tensor, classes: Sequence[str], title: str) -> Figure:
    """A (K, K) confusion matrix, as shares of each class."""
    cell, left, top = 27, 118, 92
    shares = 100 * counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    parts = [Markup('<text x="{}" y="{}" class="tick">answer, %</text>').format(left, 11)]
    for k, name in enumerate(classes):
        x, y = left + cell * (k + 0.5), top + cell * (k + 0.5)
        turned = Markup('<g transform="translate({} {}) rotate(-55)">{}</g>')
        parts += [name_at(left - 8, y + 4, name, "end", longest=17), turned.format(x, top - 6, _name(name))]
    square = Markup(
        '<rect class="heat" x="{}" y="{}" width="{}" height="{}" fill-opacity="{:.2f}"><title>{}</title></rect>'
    )
    number = Markup('<text x="{}" y="{}" text-anchor="middle" class="{}">{:.0f}</text>')
    for row, label in enumerate(classes):
        for column, answer in enumerate(classes):
            share, x, y = shares[row, column].item(), left + cell * column, top + cell * row
            said = f"{label}, answered {answer}: {int(counts[row, column]):,} ({share:.1f} %)"
            parts.append(square.format(x, y, cell - 1, cell - 1, max(share / 100, 0.03), said))
            if share >= 0.5:
                parts.append(number.format(x + cell / 2, y + cell / 2 + 4, "on-heat" if share > 72 else "", share))
    width, height = left + cell * len(classes) + 40, top + cell * len(classes) + 4
    caption = "A row is a class, a column an answer; shares of the class in percent."
    return Figure(title, drawing(width, height, title, parts), caption=caption, wide=True)


def _name(name: str) -> Markup:
    return name_at(0, 0, name, "start", longest=15)
