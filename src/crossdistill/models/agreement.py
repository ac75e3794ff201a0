"""What is asked for and what a weights file says, brought together before a model is created."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from torch import Tensor

from crossdistill.errors import UserError
from crossdistill.models.weights import classifier_names, read_weights
from crossdistill.options import ModelOptions, height_and_width
from crossdistill.staged import ModelCard
from crossdistill.staged.card import STEM_STRIDE


@dataclass(frozen=True)
class Held:
    """What `--student_weights` or `--teacher_weights` leads to; state and card only where it is a file."""

    source: str
    state: dict[str, Tensor] | None = None
    card: ModelCard | None = None

    @property
    def stem_stride(self) -> int | None:
        """What the stem of the weights' model was lowered to; None where it was not."""
        if self.state is not None and STEM_STRIDE in self.state:
            return int(self.state[STEM_STRIDE])
        return self.card.stem_stride if self.card is not None else None


def read_held(weights: str, role: str) -> Held:
    """What the option names."""
    if weights in ("none", "pretrained"):
        return Held(weights)
    if not Path(weights).expanduser().exists():
        raise UserError(f"--{role}_weights '{weights}' is neither 'none' nor 'pretrained' nor an existing file")
    return Held(weights, *read_weights(weights))


def agreed_identity(options: ModelOptions, held: Held, role: str) -> tuple[str, dict[str, Any]]:
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
    if card.needs_module:
        if options.name:
            return options.name, dict(options.kwargs)
        raise UserError(
            f"'{source}' holds the weights of {card.name}, which was built by hand and by no name that could build it "
            f"again: give crossdistill.load_student the module, or name a callable that returns it with --{role}"
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


def agreed_size(kwargs: dict[str, Any], image_size: tuple[int, int] | None, role: str) -> tuple[int, int] | None:
    """The one image size, whether it was given as such or as the argument `img_size`."""
    given = height_and_width(kwargs.get("img_size"), f"{role}.kwargs.img_size")
    if given is None or given == image_size:
        return image_size
    if image_size is not None:
        raise UserError(f"--{role}.kwargs.img_size {given} contradicts the image size {image_size}: give one of them")
    return given


def agreed_stem(stem_stride: int | None, held: Held) -> int | None:
    """The one stem stride; None leaves the stem as built."""
    if held.stem_stride is not None and stem_stride not in (None, held.stem_stride):
        raise UserError(
            f"--stem_stride {stem_stride} contradicts the weights, made with {held.stem_stride}: leave it out"
        )
    return stem_stride or held.stem_stride


def agreed_outputs(name: str, held: Held, num_classes: int | None, role: str, *, new_head: bool = False) -> int | None:
    """How many outputs to create the model with: its weights', else the data's; None leaves it to the model."""
    if new_head:
        return num_classes
    of_weights = _outputs_of_weights(name, held)
    if of_weights == 0 and (role == "teacher" or num_classes is None):
        return 0
    # A file keeps its outputs, and is refused later where they are not the data's; of its own pretrained weights timm
    # replaces the head.
    return of_weights if of_weights and held.state is not None else num_classes


def _outputs_of_weights(name: str, held: Held) -> int | None:
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
