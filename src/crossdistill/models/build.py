"""From a name and a weights file to a `StagedModel`: the one place that creates models."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from crossdistill.errors import UserError
from crossdistill.models.agreement import Held, agreed_identity, agreed_outputs, agreed_size, agreed_stem, read_held
from crossdistill.models.class_map import read_class_map
from crossdistill.models.create import check_name, create_module, is_dotted_path
from crossdistill.models.stem import lower_stem_stride
from crossdistill.models.weights import load_weights, read_weights, weights_file
from crossdistill.options import ModelOptions
from crossdistill.staged import StagedModel


def build_model(
    options: ModelOptions,
    *,
    weights: str = "none",
    new_head: bool = False,
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
        new_head: leave the classifier of a weights file out, and begin with a new one.
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
    if new_head and held.state is None:
        raise UserError(f"--{role}_new_head is for weights from a file, and --{role}_weights is '{weights}'")
    if held.card is not None and held.card.detector is not None:
        raise UserError(f"'{weights}' holds a detector: add --task detection, or load it with load_detector")
    name, kwargs = agreed_identity(options, held, role)
    check_name(name)
    dotted = is_dotted_path(name)
    if not dotted:
        image_size = agreed_size(kwargs, image_size, role)
    if held.card is not None:
        image_size = image_size or held.card.image_size
        stage_ends = stage_ends or held.card.stage_ends
    outputs = kwargs.pop("num_classes", None)
    if outputs is None:
        outputs = agreed_outputs(name, held, None if classes_file else num_classes, role, new_head=new_head)

    model = create_module(
        name, kwargs, num_classes=outputs, image_size=image_size, pretrained=weights == "pretrained", role=role
    )
    staged = _stage(
        model,
        held,
        name=name,
        image_size=image_size,
        stage_ends=stage_ends,
        stem_stride=agreed_stem(stem_stride, held),
        new_head=new_head,
    )
    head_trained = staged.card.head_trained
    if held.state is None:
        head_trained = weights == "pretrained" and (dotted or not _has_new_head(model))
    if classes_file is not None:
        assert class_names is not None
        staged.select_classes(read_class_map(classes_file, class_names, staged.num_classes))
    elif head_trained:
        class_names = staged.card.classes
    _check_classes(staged, num_classes, weights, role)
    if not dotted:
        # The size has a field of its own, so that it can be changed when the file is read again.
        kwargs.pop("img_size", None)
    staged.card = replace(
        staged.card, kwargs=kwargs, classes=class_names, head_trained=head_trained, needs_module=False
    )
    return staged


def load_student(path: str | Path, *, module: nn.Module | None = None) -> StagedModel:
    """The student of a run, or the model of any weights file that says what it holds, in eval mode.

        student = load_student("runs/kd")
        logits = student(images).logits

    Images are (B, 3, H, W) in [0, 1] and of any size: the model resizes and normalises them for itself.
    `crossdistill.data.read_image` and `to_input` make them of files as for evaluation. The plain module is
    `student.model`; it takes images of `student.image_size`, normalised with `student.mean` and `student.std`:
    `student.model(student.prepare_images(images))` are the same logits.

    Args:
        path: a run folder, or a weights file.
        module: the module that the weights belong to, of the same structure, for a file that does not say how to build
            it: one of a model that was built by hand, or of another program. It is changed in place, and its stem is
            lowered where the file's was.

    Raises:
        UserError: no such file, a file that does not say which model it belongs to, or another module's weights.
    """
    file = weights_file(path)
    if module is None:
        return build_model(ModelOptions(), weights=str(file), num_classes=None).eval()
    held = Held(str(file), *read_weights(file))
    card = held.card
    return _stage(
        module,
        held,
        name=card.name if card is not None else "",
        image_size=card.image_size if card is not None else None,
        stage_ends=card.stage_ends if card is not None else None,
        stem_stride=agreed_stem(None, held),
    ).eval()


def _stage(
    module: nn.Module,
    held: Held,
    *,
    name: str,
    image_size: tuple[int, int] | None,
    stage_ends: str | None,
    stem_stride: int | None,
    new_head: bool = False,
) -> StagedModel:
    """The module as a `StagedModel`, with the stem and the weights that it is to have."""
    ends = [end.strip() for end in stage_ends.split(",")] if stage_ends else None
    if stem_stride is not None:
        lower_stem_stride(module, stem_stride, name=name, stage_ends=ends)
    head_trained = False
    if held.state is not None:
        description = f"'{held.source}' does not fit {name or type(module).__name__}"
        head_trained = load_weights(module, held.state, description=description, without_classifier=new_head)
    card = held.card
    staged = StagedModel(
        module,
        name=name,
        image_size=image_size,
        stage_ends=ends,
        mean=card.mean if card is not None else None,
        std=card.std if card is not None else None,
    )
    staged.card = replace(
        staged.card,
        classes=card.classes if card is not None and head_trained else None,
        head_trained=head_trained,
        weights=held.source,
    )
    return staged


def _has_new_head(model: Any) -> bool:
    """Whether timm replaced the head of its pretrained weights."""
    return model.num_classes != model.pretrained_cfg["num_classes"]


def _check_classes(staged: StagedModel, num_classes: int | None, weights: str, role: str) -> None:
    if num_classes in (None, staged.num_classes) or (staged.num_classes == 0 and role == "teacher"):
        return
    mend = (
        "map them with --teacher_classes FILE when you distil"
        if role == "teacher"
        else "give weights for these classes, or --student_new_head true, to train it on these"
    )
    raise UserError(
        f"the {role} {staged.name}, weights '{weights}', has {staged.num_classes} classes, "
        f"the data has {num_classes}: {mend}"
    )
