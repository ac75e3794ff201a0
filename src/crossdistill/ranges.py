"""What values a hyper-parameter may sensibly take, as data: a method says it, `crossdistill tune` searches in it."""

from typing import Any, NamedTuple


class Range(NamedTuple):
    """Any number from `low` to `high`, both included.

    Args:
        low: the least; above 0 where `log`.
        high: the greatest.
        log: search the logarithm: 0.1 is as far from 1 as 1 from 10.
    """

    low: float
    high: float
    log: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a value is in it."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest."""
        return self.low, self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (" (log)" if self.log else "")


class Choice(NamedTuple):
    """One of a few values that have no order: names, switches, or 0 beside numbers that are searched by magnitude.

    Args:
        values: numbers, texts, booleans or None.
    """

    values: tuple[Any, ...]

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return value in self.values

    @property
    def ends(self) -> tuple[Any, Any]:
        """The first and the last."""
        return self.values[0], self.values[-1]

    def __str__(self) -> str:
        return " or ".join(map(str, self.values))
