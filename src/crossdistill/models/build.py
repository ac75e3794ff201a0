"""From a name and a weights file to a `StagedModel`: the one place that creates models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from torch import Tensor

from crossdistill.errors import UserError, nearest
from crossdistill.models.create import check_name, create_module, is_dotted_path
from crossdistill.models.stem import lower_stem_stride
from crossdistill.models.weights import classifier_names, load_weights, read_weights
from crossdistill.options import ModelOptions, height_and_width
from crossdistill.staged import ModelCard, StagedModel


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
    held = _read(weights, role)
    name, kwargs = _identity(options, held, role)
    check_name(name)
    dotted = is_dotted_path(name)
    if not dotted:
        image_size = _agreed_size(kwargs, image_size, role)
    if held.card is not None:
        image_size = image_size or held.card.image_size
        stage_ends = stage_ends or held.card.stage_ends
        stem_stride = _agreed_stem(stem_stride, held.card)
    outputs = kwargs.pop("num_classes", None)
    if outputs is None:
        outputs = _outputs(name, held, None if classes_file else num_classes, role)

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
        stem_stride=stem_stride,
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


def read_class_map(path: str | Path, class_names: list[str], outputs: int) -> list[int]:
    """Which output of a model answers for each class of the data.

    Args:
        path: a text file, one line for each class of the data: its name, a space, and the index of the output from 0.
        class_names: the classes of the data, in the order of the labels.
        outputs: number of outputs of the model.

    Returns:
        One index per class, in the order of `class_names`.

    Raises:
        UserError: no such file, a line that is not a name and an index, an unknown or repeated class, a class left out,
            an index that the model does not have.
    """
    try:
        lines = Path(path).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the class map '{path}': {error}") from error
    indices: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        # From the right, because a name may hold spaces.
        *names, index = line.rsplit(maxsplit=1)
        where = f"{path}, line {number}"
        if not names or not index.isdecimal():
            raise UserError(f"{where}: '{line.strip()}' is not a class name and the index of an output")
        name = names[0].strip()
        if name not in class_names:
            raise UserError(f"{where}: the data has no class '{name}'{nearest(name, class_names)}")
        if name in indices:
            raise UserError(f"{where}: class '{name}' is given twice")
        if int(index) >= outputs:
            raise UserError(f"{where}: output {index} does not exist, the model has {outputs}, counted from 0")
        indices[name] = int(index)
    missing = [name for name in class_names if name not in indices]
    if missing:
        raise UserError(f"{path}: {len(missing)} classes of the data are left out, the first is '{missing[0]}'")
    return [indices[name] for name in class_names]


@dataclass(frozen=True)
class _Weights:
    """What `--student_weights` or `--teacher_weights` leads to; state and card only where it is a file."""

    source: str
    state: dict[str, Tensor] | None = None
    card: ModelCard | None = None


def _read(weights: str, role: str) -> _Weights:
    if weights in ("none", "pretrained"):
        return _Weights(weights)
    if not Path(weights).expanduser().exists():
        raise UserError(f"--{role}_weights '{weights}' is neither 'none' nor 'pretrained' nor an existing file")
    return _Weights(weights, *read_weights(weights))


def _identity(options: ModelOptions, held: _Weights, role: str) -> tuple[str, dict[str, Any]]:
    """The model's name and arguments, from the user and from the card of the weights file."""
    source, card = held.source, held.card
    if card is None:
        if options.name:
            return options.name, dict(options.kwargs)
        if held.state is None:
            raise UserError(f"--{role} is missing: give a timm name (see: crossdistill models) or a dotted path")
        raise UserError(
            f"'{source}' does not say which model it holds: name it with --{role}, or give one of crossdistill's files"
        )
    if options.name and _architecture(options.name) != _architecture(card.name):
        raise UserError(f"--{role} {options.name} contradicts '{source}', which holds {card.name}: leave --{role} out")
    for key, value in options.kwargs.items():
        if card.kwargs.get(key, value) != value:
            raise UserError(
                f"--{role}.kwargs.{key}={value} contradicts '{source}', made with {card.kwargs[key]}: leave it out"
            )
    return card.name, {**card.kwargs, **options.kwargs}


def _architecture(name: str) -> str:
    """timm's name without the tag of its pretrained weights; other names as they are."""
    root = name.partition(".")[0]
    return root if timm.is_model(root) else name


def _agreed_size(kwargs: dict[str, Any], image_size: tuple[int, int] | None, role: str) -> tuple[int, int] | None:
    """The one image size, whether it was given as such or as the argument `img_size`."""
    given = height_and_width(kwargs.get("img_size"), f"{role}.kwargs.img_size")
    if given is None or given == image_size:
        return image_size
    if image_size is not None:
        raise UserError(f"--{role}.kwargs.img_size {given} contradicts the image size {image_size}: give one of them")
    return given


def _agreed_stem(stem_stride: int | None, card: ModelCard) -> int | None:
    if card.stem_stride is not None and stem_stride not in (None, card.stem_stride):
        raise UserError(
            f"--stem_stride {stem_stride} contradicts the weights, made with {card.stem_stride}: leave it out"
        )
    return stem_stride or card.stem_stride


def _outputs(name: str, held: _Weights, num_classes: int | None, role: str) -> int | None:
    """How many outputs to create the model with: its weights', else the data's; None leaves it to the model."""
    of_weights = _outputs_of_weights(name, held)
    if of_weights == 0 and (role == "teacher" or num_classes is None):
        return 0
    # A file keeps its outputs, and is refused later where they are not the data's; of its own pretrained weights timm
    # replaces the head.
    return of_weights if of_weights and held.state is not None else num_classes


def _outputs_of_weights(name: str, held: _Weights) -> int | None:
    """Number of outputs that the weights have, 0 without a classifier; None where nothing tells."""
    if held.card is not None:
        return held.card.num_classes
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None:
        return None
    if held.state is not None:
        names = [f"{layer}.weight" for layer in classifier_names(config)]
        return next((len(held.state[name]) for name in names if name in held.state), 0)
    return config.num_classes if held.source == "pretrained" else None


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
