"""From a name and a weights file to a `StagedModel`: the one place that creates models."""

from pathlib import Path
from typing import Any

from torch import Tensor

from crossdistill.errors import UserError
from crossdistill.models.agreement import agreed_identity, agreed_outputs, agreed_size, agreed_stem, read_held
from crossdistill.models.class_map import read_class_map
from crossdistill.models.create import check_name, create_module, is_dotted_path
from crossdistill.models.stem import lower_stem_stride
from crossdistill.models.weights import load_weights
from crossdistill.options import ModelOptions
from crossdistill.staged import ModelCard, StagedModel
from crossdistill.staged.card import STEM_STRIDE


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

    A file that `save_model` wrote says itself which model it holds, with its arguments, classes, size and
    normalisation. What is given here may add to that, and ask for another image size; anything else that contradicts it
    is refused.

    Args:
        options: timm name, `hf-hub:` or `local-dir:` name, or the dotted path of a callable that returns a module; and
            arguments for it. A module that has a `pretrained_cfg` like timm's is normalised by its mean and std.
        weights: `none`, `pretrained`, or a file (or run folder). For a dotted path, `pretrained` says that the callable
            itself returns trained weights.
        num_classes: classes of the data; None takes what the model or its weights have.
        image_size: (height, width) in pixels that the model sees; default: the file's, else the model's own.
        stage_ends: comma-separated module paths of the stage ends, for a model that does not name its own.
        stem_stride: total stride of the stem and the first stage, lowered for small images.
        role: "student" or "teacher": names the flags in errors. Where the weights have no classifier, a teacher is
            built without one, a student gets a new one.
        classes_file: maps the classes of the data to outputs of the model, see `read_class_map`.
        class_names: the classes of the data, in the order of the labels; needed with `classes_file`.

    Returns:
        The model, with a `ModelCard` as its `card`.

    Raises:
        UserError: unknown name, refused argument or size, unreadable or unfitting weights, another number of classes
            than the data's, an incomplete class map.
    """
    held = read_held(weights, role)
    name, kwargs = agreed_identity(options, held, role)
    check_name(name)
    dotted = is_dotted_path(name)
    if not dotted:
        image_size = agreed_size(kwargs, image_size, role)
    if held.card is not None:
        image_size = image_size or held.card.image_size
        stage_ends = stage_ends or held.card.stage_ends
    stem_stride = agreed_stem(stem_stride, held)
    outputs = kwargs.pop("num_classes", None)
    if outputs is None:
        outputs = agreed_outputs(name, held, None if classes_file else num_classes, role)

    model = create_module(
        name, kwargs, num_classes=outputs, image_size=image_size, pretrained=weights == "pretrained", role=role
    )
    ends = [end.strip() for end in stage_ends.split(",")] if stage_ends else None
    if stem_stride is not None:
        lower_stem_stride(model, stem_stride, name=name, stage_ends=ends)
    if held.state is not None:
        head_trained = load_weights(model, held.state, description=f"'{weights}' does not fit {name}")
    else:
        head_trained = weights == "pretrained" and (dotted or not _has_new_head(model))

    staged = StagedModel(
        model,
        name=name,
        image_size=image_size,
        stage_ends=ends,
        mean=held.card.mean if held.card is not None else None,
        std=held.card.std if held.card is not None else None,
    )
    if classes_file is not None:
        assert class_names is not None
        staged.select_classes(read_class_map(classes_file, class_names, staged.num_classes))
    elif head_trained:
        class_names = held.card.classes if held.card is not None else None
    _check_classes(staged, num_classes, weights, role)
    if not dotted:
        # The size has a field of its own, so that it can be changed when the file is read again.
        kwargs.pop("img_size", None)
    staged.card = ModelCard(
        name=name,
        kwargs=kwargs,
        num_classes=staged.num_classes,
        classes=class_names,
        image_size=staged.image_size,
        mean=_decimals(staged.mean),
        std=_decimals(staged.std),
        stem_stride=getattr(model, STEM_STRIDE, None),
        stage_ends=stage_ends,
        head_trained=head_trained,
        weights=weights,
    )
    return staged


def load_model(path: str | Path) -> StagedModel:
    """The model of a file that `save_model` wrote, in eval mode.

    Args:
        path: the file, or a run folder, whose student is loaded.

    Raises:
        UserError: no such file, or a file that does not say which model it belongs to.
    """
    return build_model(ModelOptions(), weights=str(path), num_classes=None).eval()


def _has_new_head(model: Any) -> bool:
    """Whether timm replaced the head of its pretrained weights."""
    return model.num_classes != model.pretrained_cfg["num_classes"]


def _decimals(values: Tensor) -> tuple[float, ...]:
    """Float32 values by their shortest decimals: 0.485, not 0.48500001430511475."""
    return tuple(float(str(value)) for value in values.flatten().numpy())


def _check_classes(staged: StagedModel, num_classes: int | None, weights: str, role: str) -> None:
    if num_classes in (None, staged.num_classes) or (staged.num_classes == 0 and role == "teacher"):
        return
    mend = (
        "map them with --teacher_classes FILE when you distil"
        if role == "teacher"
        else "give weights for these classes, or 'pretrained', which gets a new head"
    )
    raise UserError(
        f"the {role} {staged.name}, weights '{weights}', has {staged.num_classes} classes, "
        f"the data has {num_classes}: {mend}"
    )
