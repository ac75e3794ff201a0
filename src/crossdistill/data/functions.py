"""Data sets that a function of the user's gives, named by its dotted path. `docs/data.md` states the contract."""

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from crossdistill.data.items import as_image, as_label
from crossdistill.data.sources import DatasetSource
from crossdistill.data.splits import Splits
from crossdistill.errors import UserError
from crossdistill.imports import import_object

# Items that are looked at when the set is opened, where the labels are known without.
_SAMPLE = 32


def is_dotted_path(text: str) -> bool:
    """Whether a text is two names or more, joined by dots."""
    names = text.split(".")
    return len(names) > 1 and all(name.isidentifier() for name in names)


def read_function(path: str, wanted: tuple[str, ...]) -> Splits:
    """Call the function at a dotted path, and find out the labels of what it gives.

    Args:
        path: of the function.
        wanted: `train`, `validation`, or both.

    Raises:
        UserError: there is no such function, it wants arguments, it gives something else, or an item is not as it
            should be. What the function itself raises is left as it is.
    """
    datasets, classes = _take_apart(path, _call(path), wanted)
    splits = Splits(_class_names(path, datasets, classes))
    for name in wanted:
        labels = _labels(f"--data {path}: {name} item", datasets[name], len(splits.classes))
        splits.sources[name] = DatasetSource(datasets[name], labels, name, path)
    return splits


def _call(path: str) -> Any:
    try:
        function = import_object(path)
    except UserError as error:
        raise UserError(f"--data {path} is neither a folder nor a function: {error}") from error
    if not callable(function):
        raise UserError(f"--data {path} is no function, but {type(function).__name__}: name one that gives the data")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise UserError(f"--data {path} wants arguments: name a function that is called without any") from error
    except ValueError:
        pass  # What is written in C may not say what it takes.
    return function()


def _take_apart(path: str, given: Any, wanted: tuple[str, ...]) -> tuple[dict[str, Any], list[str] | None]:
    """The data sets by split, and the class names where they came beside them."""
    parts = list(given) if isinstance(given, tuple) else [given]
    classes = list(parts.pop()) if len(parts) > 1 and _are_names(parts[-1]) else None
    if all(map(_is_dataset, parts)):
        if len(parts) == 2:
            return {"train": parts[0], "validation": parts[1]}, classes
        if len(parts) == 1 and wanted == ("validation",):
            return {"validation": parts[0]}, classes
    kinds = ", ".join(type(part).__name__ for part in given) if isinstance(given, tuple) else type(given).__name__
    asked = "(train, validation, classes)"
    if "train" not in wanted:
        asked += " or (dataset, classes)"
    raise UserError(f"--data {path} gives ({kinds}): return {asked}, map-style datasets and a list of names")


def _are_names(value: Any) -> bool:
    return isinstance(value, tuple | list) and bool(value) and all(isinstance(name, str) for name in value)


def _is_dataset(value: Any) -> bool:
    map_style = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    return map_style and not isinstance(value, IterableDataset | dict | str | bytes | type)


def _class_names(path: str, datasets: dict[str, Any], classes: list[str] | None) -> list[str]:
    if classes is None:
        own = [list(dataset.classes) for dataset in datasets.values() if _are_names(getattr(dataset, "classes", None))]
        if not own:
            raise UserError(f"--data {path} gives no class names: return them as the last entry, a list of text")
        if own[0] != own[-1]:
            raise UserError(f"--data {path} gives a training and a validation set with different `.classes`")
        classes = own[0]
    if len(classes) == 1:
        raise UserError(f"--data {path} has one class only, '{classes[0]}': there is nothing to tell apart")
    return classes


def _labels(item: str, dataset: Any, classes: int) -> Tensor:
    """The (N,) labels: from the data set's own list where it has one, else by reading every item."""
    count = len(dataset)
    if not count:
        raise UserError(f"{item}s: there are none")
    known = _own_labels(dataset, count)
    positions = range(count) if known is None else torch.linspace(0, count - 1, _SAMPLE).long().unique().tolist()
    seen = {position: _read_label(dataset[position], f"{item} {position}") for position in positions}
    labels = torch.tensor(list(seen.values())) if known is None else known
    for position, label in seen.items():
        if label != labels[position]:
            raise UserError(f"{item} {position} has label {label}, but {labels[position]} in the list of the data set")
    outside = ((labels < 0) | (labels >= classes)).nonzero()
    if len(outside):
        wrong = int(outside[0])
        raise UserError(f"{item} {wrong} has label {labels[wrong]}: labels of {classes} classes are 0 to {classes - 1}")
    return labels


def _own_labels(dataset: Any, count: int) -> Tensor | None:
    for name in ("targets", "labels"):
        try:
            own = torch.as_tensor(np.asarray(getattr(dataset, name)))
        except (AttributeError, TypeError, ValueError, RuntimeError):
            continue  # There is none, or it holds names, or anything else.
        if own.shape == (count,) and not own.is_floating_point() and not own.is_complex():
            return own.long()
    return None


def _read_label(item: Any, where: str) -> int:
    as_image(item, where)
    return as_label(item, where)
