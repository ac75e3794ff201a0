"""The one kind of error that is a user's to mend, and the one kind of warning that is meant for a user."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can mend: one line that says what is wrong and what to do.

    The command prints the line and exits with code 2; a library user sees a `ValueError`. Anything else that is
    raised is a defect of this package and keeps its traceback.
    """


class UserCaution(UserWarning):
    """What a user may not expect of a pair of models or of data; the command prints it as one line."""


def nearest(name: str, names: Iterable[str]) -> str:
    """`"; did you mean 'resnet18'?"` for a misspelt name, or an empty string when nothing is near."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
