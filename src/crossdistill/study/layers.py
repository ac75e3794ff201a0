"""Options in layers: a base plus changed fields, under the names that recipes and the command line have."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from crossdistill.errors import UserError, nearest
from crossdistill.options import PARTS, TrainingOptions, type_in_words
from crossdistill.options.values import plain

# Flat, by dotted names: {"epochs": 14, "student.name": "resnet18", "method.kwargs.temperature": 2}.
Layer = dict[str, Any]

GROUPS = ("student", "teacher", "method")
# What a study says of a run by itself.
_OWN = {
    "seed": "seeds",
    "data_seed": "seeds",
    "output": "--output",
    "resume": "--output",
    "teacher_cache": "share_teacher",
    "teacher_cache_fill": "share_teacher",
}


def flatten(values: Any, where: str) -> Layer:
    """The layer of a group of options, as YAML has them: `student: NAME` is short for `student.name: NAME`.

    Args:
        values: a mapping, or None for no change; a null leaves an option as it is.
        where: what they belong to, for errors.

    Raises:
        UserError: no mapping, a name that is no option (with the nearest), or one that is not a study's to set.
    """
    if not isinstance(values, Mapping | None):
        raise UserError(f"{where}: expected options and values such as `epochs: 50`, got '{values}'")
    layer: Layer = {}
    for key, value in (values or {}).items():
        group, dot, rest = str(key).partition(".")
        if key in GROUPS and not isinstance(value, Mapping):
            group, dot, rest = key, ".", "name"
        elif key in GROUPS:
            layer |= flatten({f"{key}.{inner}": given for inner, given in value.items()}, where)
            continue
        if group in GROUPS and rest == "kwargs":
            layer |= {f"{group}.kwargs.{name}": given for name, given in (value or {}).items()}
        elif group in GROUPS and dot and (rest == "name" or rest.startswith("kwargs.")):
            layer[f"{group}.{rest}"] = value
        else:
            _check_name(str(key), where)
            layer[str(key)] = value
    return {name: plain(value) for name, value in layer.items() if value is not None}


def merge(*layers: Layer) -> Layer:
    """One layer of several; a later one overrules. Arguments of a model or a method go with its name."""
    merged: Layer = {}
    for layer in layers:
        for group in GROUPS:
            name = f"{group}.name"
            if name in layer and layer[name] != merged.get(name):
                merged = without_arguments(merged, group)
        merged |= layer
    return merged


def without_arguments(layer: Layer, group: str) -> Layer:
    """A layer without the arguments of a model or a method."""
    return {name: value for name, value in layer.items() if not name.startswith(f"{group}.kwargs.")}


def nested(layer: Layer) -> dict[str, Any]:
    """A layer as a recipe has it: `{"student": {"name": ..., "kwargs": {...}}, "epochs": 14}`."""
    values: dict[str, Any] = {}
    for name, value in layer.items():
        *groups, last = name.split(".", 2)
        inner = values
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return values


def to_options(layer: Layer, where: str) -> TrainingOptions:
    """The options of a run; those that the layer does not name have their defaults.

    Raises:
        UserError: a value of another type.
    """
    try:
        parsed = _parser().parse_object(nested(layer), defaults=False)
    except ArgumentError as error:
        wrong = re.match(r'Parser key "([^"]+)":', str(error))
        if wrong is None:
            raise UserError(f"{where}: {' '.join(str(error).split())}") from error
        action = _parser()._option_string_actions.get(f"--{wrong[1]}")
        wanted = type_in_words(getattr(action, "_typehint", None))
        raise UserError(f"{where}: {wrong[1]}: expected {wanted}, got '{layer.get(wrong[1])}'") from error
    values = parsed.as_dict() if isinstance(parsed, Namespace) else dict(parsed)
    return TrainingOptions.from_dict({name: plain(value) for name, value in values.items()})


def first_difference(wanted: TrainingOptions, there: TrainingOptions, leave_out: set[str]) -> tuple[str, Any, Any]:
    """The first option on which a run depends and in which two differ: its name and both values; "" for none."""
    for field in dataclasses.fields(TrainingOptions):
        if field.name in leave_out or field.metadata.get("free_on_resume"):
            continue
        one, other = getattr(wanted, field.name), getattr(there, field.name)
        if one == "auto" and field.metadata.get("found_at_start"):
            continue
        if dataclasses.is_dataclass(one) and one != other:
            for inner in ("name", "kwargs"):
                if getattr(one, inner) != getattr(other, inner):
                    return f"{field.name}.{inner}", getattr(one, inner), getattr(other, inner)
        if one != other:
            return field.name, one, other
    return "", None, None


def _check_name(name: str, where: str) -> None:
    names = [field.name for field in dataclasses.fields(TrainingOptions)]
    if name in _OWN:
        raise UserError(f"{where}: a study sets {name} for each run: give {_OWN[name]} instead")
    if name not in names:
        raise UserError(f"{where}: unknown option '{name}'{nearest(name, names)} (see: crossdistill distill --help)")


@functools.cache
def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    for part in PARTS:
        parser.add_class_arguments(part)
    return parser
