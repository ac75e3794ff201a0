"""What a search may change of a recipe, and a recipe with values put in."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crossdistill.errors import UserError, nearest
from crossdistill.methods import hyperparameters, load_method, parse_hyperparameters
from crossdistill.options import MethodOptions, TrainingOptions
from crossdistill.ranges import Choice, Range

# The optimiser's options that are searched for every method, training alone included, around the recipe's own values.
OPTIMIZER = ("learning_rate", "weight_decay")
_FACTOR = 10
# Where the recipe has no weight decay there is nothing to multiply.
_WEIGHT_DECAYS = Choice((0.0, 1e-4, 1e-3, 1e-2, 1e-1))


@dataclass(frozen=True)
class SearchSpace:
    """What is searched, and from where.

    Attributes:
        ranges: the range of each name: options of the optimiser and hyper-parameters of the method.
        start: the recipe's own values, without those that its method decides for itself or that are out of range.
    """

    ranges: dict[str, Range | Choice]
    start: dict[str, Any]


def search_space(options: TrainingOptions, search: Sequence[str] | None = None) -> SearchSpace:
    """The search space of a recipe.

    Args:
        options: the recipe.
        search: the names that are searched; default: all that the method has ranges for, and the optimiser's, but
            for hyper-parameters that the recipe sets to a value outside: a term that is off, at 0, stays off.

    Raises:
        UserError: an unknown method or hyper-parameter, a name without a range, or a learning rate of 0.
    """
    method = load_method(options.method.name)
    ranges: dict[str, Range | Choice] = {**method.ranges, **_optimizer_ranges(options)}
    given = parse_hyperparameters(options.method)
    if search is None:
        ranges = {name: range_ for name, range_ in ranges.items() if name not in given or range_.holds(given[name])}
    else:
        for name in search:
            if name not in ranges:
                raise UserError(
                    f"--search: {options.method.name} has no range for '{name}'{nearest(name, ranges)} "
                    f"(there are: {', '.join(ranges)})"
                )
        ranges = {name: ranges[name] for name in ranges if name in search}
    if not ranges:
        raise UserError("--search: name at least one hyper-parameter")
    defaults = {name: parameter.default for name, parameter in hyperparameters(method).items()}
    own = defaults | given | {name: getattr(options, name) for name in OPTIMIZER}
    start = {name: own[name] for name, range_ in ranges.items() if range_.holds(own.get(name, inspect.Parameter.empty))}
    return SearchSpace(ranges, start)


def with_values(options: TrainingOptions, values: Mapping[str, Any]) -> TrainingOptions:
    """The recipe with other values of what was searched."""
    optimizer = {name: value for name, value in values.items() if name in OPTIMIZER}
    kwargs = {name: value for name, value in values.items() if name not in OPTIMIZER}
    method = MethodOptions(options.method.name, options.method.kwargs | kwargs)
    return replace(options, method=method, **optimizer)


def _optimizer_ranges(options: TrainingOptions) -> dict[str, Range | Choice]:
    if not options.learning_rate:
        raise UserError("--learning_rate 0: nothing is learnt at this rate, there is nothing to search around")
    ranges: dict[str, Range | Choice] = {"learning_rate": _around(options.learning_rate)}
    ranges["weight_decay"] = _around(options.weight_decay) if options.weight_decay else _WEIGHT_DECAYS
    return ranges


def _around(value: float) -> Range:
    return Range(value / _FACTOR, value * _FACTOR, log=True)
