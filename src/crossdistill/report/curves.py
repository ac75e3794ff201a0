"""Curves over training from the metrics of runs, with their range over seeds."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# Points of a curve that a chart of its width can show.
_MOST_POINTS = 150
# What lines of training hold beside loss terms.
_NO_TERMS = ("kind", "step", "epoch", "learning_rate", "images_per_second", "loss")


@dataclass(frozen=True)
class CurvePoint:
    """One place on a curve.

    Attributes:
        x: where: an epoch or a step.
        mean: over seeds.
        low: the least of the seeds.
        high: the greatest.
    """

    x: float
    mean: float
    low: float
    high: float


Curve = list[CurvePoint]
Lines = list[dict[str, Any]]


def curve(runs: Iterable[Lines], kind: str, x: str, name: str) -> Curve:
    """A value of several runs, where all of them have it.

    Args:
        runs: the lines of each run's `metrics.jsonl`.
        kind: `train` or `evaluation`.
        x: `epoch` or `step`.
        name: of the value.
    """
    each = [
        {line[x]: line[name] for line in lines if line["kind"] == kind and line.get(name) is not None} for lines in runs
    ]
    each = [values for values in each if values]
    if not each:
        return []
    places = sorted(set.intersection(*(set(values) for values in each)))
    points = []
    for place in _thinned(places):
        values = [one[place] for one in each]
        points.append(CurvePoint(place, statistics.mean(values), min(values), max(values)))
    return points


def term_names(lines: Lines) -> list[str]:
    """Names of the loss terms of a run, in the order in which they were written."""
    names: dict[str, None] = {}
    for line in lines:
        if line["kind"] == "train":
            names |= dict.fromkeys(name for name in line if name not in _NO_TERMS and "/" not in name)
    return list(names)


def _thinned(places: Sequence[float]) -> Sequence[float]:
    every = -(-len(places) // _MOST_POINTS)
    kept = places[::every] if every > 1 else places
    return [*kept, places[-1]] if places and kept[-1] != places[-1] else kept
