"""What a weights file must say of its model, so that the file alone is enough."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import Tensor, nn

# A module whose stem stride was lowered has it under this name: as an attribute, and its weights file as a tensor.
# A file with a tensor too many does not load into a module that was not lowered, where its weights would be wrong.
STEM_STRIDE = "crossdistill_stem_stride"


@dataclass
class ModelCard:
    """How a model was built: what a weights file must say so that the file alone is enough.

    Attributes:
        name: timm name, `hf-hub:` or `local-dir:` name, or the dotted path of a callable.
        kwargs: arguments that the model was created with, as the user gave them.
        num_classes: number of outputs, 0 for a model without head.
        classes: names of the outputs in their order, where they are known.
        image_size: (height, width) in pixels.
        mean: per channel, of images in [0, 1].
        std: per channel, of images in [0, 1].
        stem_stride: total stride that the stem was lowered to, None where it is as built.
        stage_ends: comma-separated module paths of the stage ends, None where they were found.
        needs_module: whether neither the name nor anything else here builds the module, so that whoever reads the file
            has to bring it.
        detector: the head and the pyramid of a detector that the model is the backbone of; None for classifiers.
        head_trained: whether the classifier comes from training, not from initialisation. Not written to files.
        weights: `none`, `pretrained`, or the file that was read; `module` for those that a module came with. Not
            written to files.
    """

    name: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    num_classes: int = 0
    classes: list[str] | None = None
    image_size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    stem_stride: int | None = None
    stage_ends: str | None = None
    needs_module: bool = False
    detector: dict[str, Any] | None = None
    head_trained: bool = False
    weights: str = "none"

    def to_json(self) -> str:
        """The part of the card that belongs to the weights, wherever the file goes."""
        card = asdict(self)
        del card["head_trained"], card["weights"]
        return json.dumps(card)

    @classmethod
    def from_json(cls, text: str) -> "ModelCard":
        known = {f.name for f in fields(cls)}
        card = cls(**{name: value for name, value in json.loads(text).items() if name in known})
        card.image_size = (card.image_size[0], card.image_size[1])
        card.mean, card.std = tuple(card.mean), tuple(card.std)
        return card


def decimals(values: Tensor) -> tuple[float, ...]:
    """Float32 values by their shortest decimals: 0.485, not 0.48500001430511475."""
    return tuple(float(str(value)) for value in values.flatten().cpu().numpy())


def pretrained_config(model: nn.Module) -> dict[str, Any]:
    """What timm says of the weights that a model can have; empty for other modules."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    return config if isinstance(config, dict) else vars(config)


def height_and_width_of(image_size: int | Sequence[int]) -> tuple[int, int]:
    """One side, or height and width, as both."""
    if isinstance(image_size, int):
        return image_size, image_size
    height, width = image_size
    return height, width


def own_image_size(model: nn.Module, config: dict[str, Any]) -> tuple[int, int]:
    """What the patch embedding was built for, else what the pretrained weights were trained at, else 224."""
    for module in model.modules():
        size = getattr(module, "img_size", None)
        if isinstance(size, int | tuple):
            return height_and_width_of(size)
    return height_and_width_of(tuple(config["input_size"][1:]) if "input_size" in config else 224)
