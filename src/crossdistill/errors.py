"""The one kind of error that is a user's to mend, and the one kind of warning that is meant for a user."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can mend: one line that says what is wrong and what to do.

    The command prints the line and exits with code 2; a library user sees a `ValueError`. Anything else that is
    raised is a defect of this package and keeps its traceback.
    """


class DivergenceError(UserError):
    """A loss or a weight is not finite any more: the recipe's rates and weights are at fault, not the set-up."""


class UserCaution(UserWarning):
    """What a user may not expect of a pair of models or of data; the command prints it as one line."""


def nearest(name: str, names: Iterable[str]) -> str:
    """`"; did you mean 'resnet18'?"` for a misspelt name, or an empty string when nothing is near."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def check_range(
    owner: str = "",
    /,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    **values: float,
) -> None:
    """Refuse numbers outside of a range.

    Args:
        owner: the method whose hyper-parameters they are; default: they are options of the command line.
        above: they are greater than this.
        at_least: they are this or greater.
        at_most: they are this or less.
        below: they are less than this.
        values: the numbers by name.

    Raises:
        UserError: names the first that is outside.
    """
    bounds = {"above": above, "of at least": at_least, "at most": at_most, "below": below}
    range_ = " and ".join(f"{name} {bound:g}" for name, bound in bounds.items() if bound is not None)
    for name, value in values.items():
        fits = (
            (above is None or value > above)
            and (at_least is None or value >= at_least)
            and (at_most is None or value <= at_most)
            and (below is None or value < below)
        )
        if not fits:
            told = f"{owner}: {name}={value};" if owner else f"--{name} {value}:"
            raise UserError(f"{told} give a number {range_}")
