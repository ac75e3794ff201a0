"""Whether a name builds a module again that somebody else built: what a weights file needs to know to stand alone."""

from dataclasses import replace
from typing import Any

import timm
import torch
from torch import nn

from crossdistill.models.create import create_module, is_dotted_path
from crossdistill.models.stem import lower_stem_stride
from crossdistill.staged import ModelCard, StagedModel
from crossdistill.staged.card import pretrained_config


def card_to_write(model: StagedModel) -> ModelCard:
    """The card of a model, with the name that builds its module where it was brought by hand and there is one.

    The names tried are the one that the model was given, if it is timm's or a dotted path, and the architecture in
    timm's `pretrained_cfg`. Of the arguments that the module was made with nothing is known, so each name is tried: it
    must give a module of the same parts, settings and shapes. Rates of dropout may differ.
    """
    if not model.card.needs_module:
        return model.card
    for name in (model.name, pretrained_config(model.model).get("architecture")):
        if name and (timm.is_model(name) or is_dotted_path(name)) and _builds(name, model):
            return replace(model.card, name=name, needs_module=False)
    return model.card


def _builds(name: str, model: StagedModel) -> bool:
    card = model.card
    # Without memory for weights, unless it has to run.
    device = "cpu" if card.stem_stride else "meta"
    try:
        with torch.random.fork_rng(devices=[]), torch.device(device):
            built = create_module(
                name, {}, num_classes=card.num_classes, image_size=card.image_size, pretrained=False, role="student"
            )
            if card.stem_stride is not None:
                lower_stem_stride(built, card.stem_stride, stage_ends=card.stage_ends and card.stage_ends.split(","))
    except Exception:
        # A name that builds nothing is no name for this module, whatever the reason.
        return False
    return _outline(built) == _outline(model.model)


def _outline(module: nn.Module) -> dict[str, Any]:
    """Parts of a module by path, with their plain settings, and the shapes of its tensors."""
    outline: dict[str, Any] = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for path, part in module.named_modules():
        # What only matters in training is no part of what weights belong to; without a rate timm puts an identity.
        if not isinstance(part, nn.Identity) and "drop" not in type(part).__name__.lower():
            settings = {key: value for key, value in vars(part).items() if _is_setting(key, value)}
            outline[f"module {path}"] = type(part), settings
    return outline


def _is_setting(key: str, value: Any) -> bool:
    if key == "training" or "drop" in key or "checkpointing" in key:
        return False
    return isinstance(value, bool | int | float | str) or (
        isinstance(value, tuple) and all(isinstance(entry, bool | int | float | str) for entry in value)
    )
