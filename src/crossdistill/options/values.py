"""What the values of options may be: types that carry their range, and how both are told in a user's words."""

import types
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from crossdistill.errors import UserError

if TYPE_CHECKING:
    PositiveInt = int
    NonNegativeInt = int
    Seed = int
    PositiveFloat = float
    NonNegativeFloat = float
    Share = float
    PositiveShare = float
    ShareBelowOne = float
else:
    from jsonargparse.typing import ClosedUnitInterval as Share
    from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, restricted_number_type

    PositiveShare = restricted_number_type("PositiveShare", float, [(">", 0), ("<=", 1)])
    ShareBelowOne = restricted_number_type("ShareBelowOne", float, [(">=", 0), ("<", 1)])
    Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list[int]: "a list of whole numbers such as [64,96]",
    list[float]: "a list of numbers",
}
_RANGES: dict[Any, str] = {
    PositiveInt: "a whole number of at least 1",
    NonNegativeInt: "a whole number of at least 0",
    Seed: "a whole number of at least 0 and below 2^32",
    PositiveFloat: "a number above 0",
    NonNegativeFloat: "a number of at least 0",
    Share: "a number from 0 to 1",
    PositiveShare: "a number above 0 and at most 1",
    ShareBelowOne: "a number of at least 0 and below 1",
}


def type_in_words(annotation: Any) -> str:
    """A type in a user's words: `int | list[int] | None` is "a whole number or a list of whole numbers"."""
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(type_in_words(part) for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Literal:
        return " or ".join(map(str, get_args(annotation)))
    if get_origin(annotation) is dict:
        return "settings such as {key: value}"
    return _RANGES.get(annotation) or _WORDS.get(annotation, "another value")


def check_ranges(options: Any) -> None:
    """Refuse numbers outside of the ranges that the fields of an options' dataclass say.

    Raises:
        UserError: naming the option.
    """
    for name, annotation in get_type_hints(type(options)).items():
        value = getattr(options, name)
        ranges = [part for part in (get_args(annotation) or (annotation,)) if part in _RANGES]
        if not ranges or value is None:
            continue
        try:
            ranges[0](value)
        except ValueError:
            raise UserError(f"--{name}: expected {type_in_words(annotation)}, got '{value}'") from None


def plain(value: Any) -> Any:
    """A parsed value without its type's range: recipes and checkpoints hold plain numbers."""
    if isinstance(value, bool):
        return value
    for base in (int, float):
        if isinstance(value, base):
            return base(value)
    return value


def height_and_width(size: int | list[int] | None, option: str) -> tuple[int, int] | None:
    """An image size as the library takes it: `64` and `[64, 64]` are (64, 64).

    Raises:
        UserError: neither one number nor two, or not positive; names `option`.
    """
    if size is None:
        return None
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2 or min(sides) < 1:
        raise UserError(f"--{option}: give one side in pixels, or height and width such as [64,96]; got {size}")
    return sides[0], sides[1]
