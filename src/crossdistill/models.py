"""From a name and a weights file to a `StagedModel`: the one place that creates models."""

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from crossdistill.errors import UserError, nearest
from crossdistill.methods import import_object
from crossdistill.options import ModelOptions
from crossdistill.staged import StagedModel
from crossdistill.stem import lower_stem_stride
from crossdistill.weights import ModelCard, read_weights


def build_model(
    options: ModelOptions,
    *,
    weights: str = "none",
    num_classes: int | None,
    image_size: tuple[int, int] | None = None,
    stage_ends: str | None = None,
    stem_stride: int | None = None,
    role: str = "student",
    classes_file: str | None = None,
    class_names: list[str] | None = None,
) -> StagedModel:
    """Create a model, load its weights, find its stages.

    A file that `save_model` wrote says itself which model it holds, with which arguments, classes, size and
    normalisation; what is given here may add to that, never contradict it (the image size may differ where the model
    allows it).

    Args:
        options: timm name, `hf-hub:` or `local-dir:` name, or the dotted path of a callable that returns a module, and
            arguments for it. A module with a `pretrained_cfg` of timm's form is normalised by its mean and std.
        weights: `none`, `pretrained`, or a file (or run folder). For a dotted path, `pretrained` says that the callable
            itself returns trained weights.
        num_classes: classes of the data; None takes what the model or its weights have.
        image_size: (height, width) in pixels that the model sees; default: the file's, else the model's own.
        stage_ends: comma-separated module paths of the stage ends, for a model that does not name its own.
        stem_stride: total stride of the stem and first stage, lowered for small images.
        role: "student" or "teacher"; names the flags in errors. A teacher whose weights have no classifier is built
            without one, a student gets a new one.
        classes_file: maps the classes of the data to outputs of the model, see `read_class_map`.
        class_names: the classes of the data, in the order of the labels.

    Returns:
        The model, with a `ModelCard` as its `card`.

    Raises:
        UserError: unknown name, refused argument or size, unreadable or unfitting weights, an incomplete class map.
    """
    state, card = None, None
    if weights not in ("none", "pretrained"):
        if not Path(weights).expanduser().exists():
            raise UserError(f"--{role}_weights '{weights}' is neither 'none' nor 'pretrained' nor an existing file")
        state, card = read_weights(weights)
    name, kwargs = _identity(options, card, role, weights)
    if "img_size" in options.kwargs:
        side = options.kwargs["img_size"]
        given = tuple(side) if isinstance(side, list | tuple) else (side, side)
        if image_size not in (None, given):
            raise UserError(f"--{role}.kwargs.img_size={side} contradicts the image size {image_size}: give one of them")
        image_size = given
    if card is not None:
        image_size = image_size or card.image_size
        stage_ends = stage_ends or card.stage_ends
        stem_stride = stem_stride or card.stem_stride
    wanted = kwargs.pop("num_classes", None)
    if wanted is None:
        held = _classes_held(name, state, card, weights)
        if held == 0 and role == "teacher":
            wanted = 0
        elif held and state is not None:
            wanted = held
        else:
            wanted = None if classes_file else num_classes

    model = _create(name, {**kwargs, "num_classes": wanted}, image_size, pretrained=weights == "pretrained", role=role)
    if stem_stride is not None:
        lower_stem_stride(model, stem_stride)
    head_trained = weights == "pretrained"
    if head_trained and "." not in name.split(":")[0]:
        pass
    raise NotImplementedError
