"""What a publication says of a study's runs: numbers to stand beside ours, and what is not sure about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crossdistill.errors import UserError, nearest

_FIELDS = ("source", "images", "classes", "top1", "teachers", "doubts")


@dataclass(frozen=True)
class Published:
    """A published table.

    Attributes:
        source: the papers and repositories that the recipe and the numbers are from.
        images: training images of the data set, for estimates without it; 0: not said.
        classes: of the data set; 0: not said.
        top1: published top-1 in percent, by pair and row.
        teachers: top-1 of the published teachers in percent, by pair.
        doubts: what could not be established, or cannot be said with our options; one sentence each.
    """

    source: str = ""
    images: int = 0
    classes: int = 0
    top1: dict[str, dict[str, float]] = field(default_factory=dict)
    teachers: dict[str, float] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, values: Any, where: str) -> "Published":
        """From plain values, as YAML has them.

        Raises:
            UserError: an unknown field, or a value that is none of its kind.
        """
        if not isinstance(values, Mapping):
            raise UserError(f"{where}: expected a source, top1 and doubts, got '{values}'")
        for name in values:
            if name not in _FIELDS:
                raise UserError(f"{where}: unknown field '{name}'{nearest(str(name), _FIELDS)}")
        doubts = values.get("doubts") or []
        if not isinstance(doubts, list | tuple):
            raise UserError(f"{where}: doubts: expected a list, got '{doubts}'")
        for name in ("images", "classes"):
            if type(values.get(name, 0)) is not int:
                raise UserError(f"{where}: {name}: expected a whole number, got '{values[name]}'")
        return cls(
            " ".join(str(values.get("source", "")).split()),
            values.get("images", 0),
            values.get("classes", 0),
            {
                pair: _percentages(rows, f"{where}: top1: {pair}")
                for pair, rows in _mapping(values.get("top1"), f"{where}: top1").items()
            },
            _percentages(values.get("teachers"), f"{where}: teachers"),
            tuple(" ".join(str(doubt).split()) for doubt in doubts),
        )

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads, without what is not said."""
        values = {name: getattr(self, name) for name in _FIELDS}
        values["doubts"] = list(self.doubts)
        return {name: value for name, value in values.items() if value}

    def over(self, below: "Published") -> "Published":
        """This one where it says something, with what another says besides; the doubts of both."""
        return Published(
            self.source or below.source,
            self.images or below.images,
            self.classes or below.classes,
            below.top1 | {pair: below.top1.get(pair, {}) | rows for pair, rows in self.top1.items()},
            below.teachers | self.teachers,
            tuple(dict.fromkeys((*self.doubts, *below.doubts))),
        )

    def of(self, pair: str, row: str) -> float | None:
        """The number of a row of a pair; None where none is published."""
        return self.top1.get(pair, {}).get(row)

    @property
    def range(self) -> tuple[float, float] | None:
        """The least and the greatest number; None where there is none."""
        numbers = [number for rows in self.top1.values() for number in rows.values()]
        return (min(numbers), max(numbers)) if numbers else None


def _mapping(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, Mapping | None):
        raise UserError(f"{where}: expected names and values, got '{values}'")
    return {str(name): value for name, value in (values or {}).items()}


def _percentages(values: Any, where: str) -> dict[str, float]:
    numbers = _mapping(values, where)
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 100:
            raise UserError(f"{where}: {name}: expected a percentage, got '{number}'")
    return {name: float(number) for name, number in numbers.items()}
