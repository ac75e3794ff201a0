"""The fields of a study: its rows and pairs, read from plain values, and one study's fields laid over another's."""

import dataclasses
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from crossdistill.errors import UserError, nearest
from crossdistill.study.layers import Layer, flatten, merge
from crossdistill.study.published import Published


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: the row's, and that of its folder.
        changes: what it changes in the pair's recipe.
        only: the pairs that have it; None: all.
        control: the control that it is; "" for none.
        budget: factor on the steps.
        base: name of the row that it is a control or another budget of; its own for others.
    """

    name: str
    changes: Layer = field(default_factory=dict)
    only: tuple[str, ...] | None = None
    control: str = ""
    budget: float = 1.0
    base: str = ""


@dataclass(frozen=True)
class Pair:
    """A teacher and a student with what depends on them.

    Attributes:
        changes: what the pair changes in the study's recipe.
        rows: what it changes in rows, by name.
    """

    changes: Layer = field(default_factory=dict)
    rows: dict[str, Layer] = field(default_factory=dict)


def read_fields(values: dict[str, Any], names: Collection[str], where: str) -> dict[str, Any]:
    """The fields of a study from plain values, as YAML has them; what is not given is left out.

    Args:
        values: the fields; `docs/studies.md` lists them.
        names: which there are.
        where: the study's name, for errors.

    Raises:
        UserError: an unknown field, or a wrong value.
    """
    for name in values:
        if name not in names:
            raise UserError(f"{where}: unknown field '{name}'{nearest(str(name), names)}")
    given = {name: value for name, value in values.items() if value is not None}
    for name in ("question", "metric", "folders"):
        if name in given:
            given[name] = str(given[name])
    if "seeds" in given:
        given["seeds"] = _seeds(given["seeds"], where)
    if "recipe" in given:
        given["recipe"] = flatten(given["recipe"], f"{where}: recipe")
    if "rows" in given:
        given["rows"] = _rows(given["rows"], where)
    if "pairs" in given:
        given["pairs"] = _pairs(given["pairs"], where)
    if "published" in given:
        given["published"] = Published.from_dict(given["published"], f"{where}: published")
    if "tune_trials" in given and (type(given["tune_trials"]) is not int or given["tune_trials"] < 0):
        raise UserError(f"{where}: tune_trials: give a number of trials, got '{given['tune_trials']}'")
    if not isinstance(given.get("share_teacher", False), bool):
        raise UserError(f"{where}: share_teacher: give true or false, got '{given['share_teacher']}'")
    for name in ("controls", "baselines", "tune_search"):
        if name in given:
            given[name] = tuple(map(str, _list(given[name], f"{where}: {name}")))
    if "budget" in given:
        given["budget"] = _budget(given["budget"], where)
    return given


def laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Fields of one study on top of those of its base: options are merged, of everything else the upper one holds.

    Args:
        below: from `read_fields`.
        above: the same; its rows and pairs come behind those of the base that it does not name.
    """
    fields = below | above
    both = below.keys() & above.keys()
    if "recipe" in both:
        fields["recipe"] = merge(below["recipe"], above["recipe"])
    if "rows" in both:
        fields["rows"] = below["rows"] | {
            name: _row_over(below["rows"].get(name), row) for name, row in above["rows"].items()
        }
    if "pairs" in both:
        fields["pairs"] = below["pairs"] | {
            name: _pair_over(below["pairs"].get(name, Pair()), pair) for name, pair in above["pairs"].items()
        }
    if "published" in both:
        fields["published"] = above["published"].over(below["published"])
    return fields


def _row_over(below: Row | None, row: Row) -> Row:
    if below is None:
        return row
    only = below.only if row.only is None else row.only
    return dataclasses.replace(row, changes=merge(below.changes, row.changes), only=only)


def _pair_over(below: Pair, pair: Pair) -> Pair:
    rows = {name: merge(below.rows.get(name, {}), changes) for name, changes in pair.rows.items()}
    return Pair(merge(below.changes, pair.changes), below.rows | rows)


def _rows(values: Any, where: str) -> dict[str, Row]:
    if isinstance(values, list):
        values = dict.fromkeys(values)
    if not isinstance(values, dict) or not values:
        raise UserError(f"{where}: rows: name at least one method, such as [scratch, kd]")
    rows = {}
    for name, changes in values.items():
        changes = {"method": changes} if isinstance(changes, str) else dict(changes or {})
        only = changes.pop("only", None)
        if only is not None:
            only = tuple(map(str, _list(only, f"{where}: row {name}: only")))
        rows[str(name)] = Row(str(name), flatten(changes, f"{where}: row {name}"), only)
    return rows


def _pairs(values: Any, where: str) -> dict[str, Pair]:
    if not isinstance(values, dict) or not values:
        raise UserError(f"{where}: pairs: name at least one, such as `vit-cnn: {{student: resnet18, ...}}`")
    pairs = {}
    for name, changes in values.items():
        changes = dict(changes or {})
        rows = changes.pop("rows", None) or {}
        own = {str(row): flatten(layer, f"{where}: pair {name}: row {row}") for row, layer in rows.items()}
        pairs[str(name)] = Pair(flatten(changes, f"{where}: pair {name}"), own)
    return pairs


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    """A number of seeds, which begin with 0, or the seeds."""
    seeds = list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(seeds, list | tuple) or any(not isinstance(seed, int) or seed < 0 for seed in seeds):
        raise UserError(f"{where}: seeds: give a number of seeds or a list of them, got '{value}'")
    if not seeds:
        raise UserError(f"{where}: seeds: there are none; give at least one")
    return tuple(dict.fromkeys(seeds))


def _budget(value: Any, where: str) -> tuple[float, ...]:
    factors = _list(value, f"{where}: budget")
    if not factors or any(not isinstance(one, int | float) or not math.isfinite(one) or one <= 0 for one in factors):
        raise UserError(f"{where}: budget: give factors on the steps such as [1, 3, 10], got '{value}'")
    return tuple(float(one) for one in factors)


def _list(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{where}: expected a list, got '{value}'")
    return value
