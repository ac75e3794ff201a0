"""Model files: weights from anywhere, and our own files, which also say how to build the model they belong to."""

import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from crossdistill.errors import UserError
from crossdistill.files import written_whole
from crossdistill.models.rebuild import card_to_write
from crossdistill.staged import ModelCard, StagedModel
from crossdistill.staged.card import STEM_STRIDE

# Key of the safetensors metadata that holds the card, and the file that a run folder keeps its model in.
_METADATA_KEY = "crossdistill"
_RUN_MODEL = "student.safetensors"


def weights_file(path: str | Path) -> Path:
    """The weights file at a path: the file itself, or the student of a run folder.

    Raises:
        UserError: there is no such file, or the run folder holds no finished model.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        if not (path / _RUN_MODEL).is_file():
            raise UserError(f"'{path}' holds no {_RUN_MODEL}: give a weights file, or the folder of a finished run")
        return path / _RUN_MODEL
    if not path.is_file():
        raise UserError(f"there is no weights file '{path}': check the path")
    return path


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], ModelCard | None]:
    """Read a weights file without running any code that it may hold.

    Safetensors, state dicts saved with `torch.save`, and the checkpoints of timm's trainer (EMA weights preferred);
    the prefixes that `DistributedDataParallel` and `torch.compile` put before names are removed.

    Args:
        path: the file, or a run folder, whose student is read.

    Returns:
        The tensors by name, and the card of a file that `save_model` wrote (None for other files).

    Raises:
        UserError: no such file, a damaged file, or a pickle that holds more than tensors.
    """
    file = weights_file(path)
    card = None
    try:
        if file.suffix == ".safetensors":
            with safetensors.safe_open(file, framework="pt") as opened:
                metadata = opened.metadata() or {}
            if _METADATA_KEY in metadata:
                card = ModelCard.from_json(metadata[_METADATA_KEY])
        state = timm.models.load_state_dict(str(file), use_ema=True, weights_only=True)
    except Exception as error:
        # A damaged file fails in as many ways as there are bytes in it: zip, pickle, JSON and storage errors.
        raise UserError(_unreadable(file, error)) from error
    if not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f"'{file}' holds no state dict: save model.state_dict(), as safetensors or with torch.save")
    return state, card


def card_of(path: str | Path) -> ModelCard | None:
    """The card of a file that `save_model` wrote, without its tensors; None of any other file, whatever it is."""
    try:
        with safetensors.safe_open(Path(path).expanduser(), framework="pt") as opened:
            text = (opened.metadata() or {}).get(_METADATA_KEY)
    except (OSError, safetensors.SafetensorError):
        return None
    return None if text is None else ModelCard.from_json(text)


def _unreadable(file: Path, error: Exception) -> str:
    blocked = re.search(r"Unsupported globals: (.+?)\. No automatic", str(error))
    if blocked:
        return (
            f"'{file}' is a pickle that holds Python objects ({blocked[1]}), which is unsafe to load: "
            "save model.state_dict() alone, best as safetensors"
        )
    return f"'{file}' cannot be read as weights (safetensors or a state dict); it may be damaged or incomplete"


def load_weights(
    model: nn.Module, state: dict[str, Tensor], *, description: str, without_classifier: bool = False
) -> bool:
    """Load a state dict that must fit: only a whole classifier may be absent from it, or be left over.

    The tensor that says how far the stem was lowered must agree with the model; a file without it fits any stem.
    Position tables that belong to another image size are resampled by the filter that timm has for the model.

    Args:
        model: the bare model, changed in place.
        state: tensors by name.
        description: the beginning of the error's line.
        without_classifier: leave the state's classifier out.

    Returns:
        Whether the model has no classifier that `state` did not bring.

    Raises:
        UserError: a tensor is missing, left over or of another shape (names the first), or another stem stride.
    """
    stride, lowered = getattr(model, STEM_STRIDE, None), state.get(STEM_STRIDE)
    if lowered is not None and lowered != stride:
        raise UserError(
            f"{description}: its stem was lowered to stride {int(lowered)}, and that of the model "
            f"{'was not' if stride is None else f'to {stride}'}: lower it to the same with lower_stem_stride first"
        )
    state = {name: tensor for name, tensor in state.items() if name != STEM_STRIDE}
    expected = model.state_dict()
    classifiers = tuple(f"{name}." for name in classifier_names(getattr(model, "pretrained_cfg", {})))
    if without_classifier:
        if not classifiers:
            raise UserError(
                f"{description}: {type(model).__name__} does not say which of its layers are the classifier (timm's "
                "models do, in pretrained_cfg): leave --student_new_head out"
            )
        state = {name: tensor for name, tensor in state.items() if not name.startswith(classifiers)}
    state = {name: tensor for name, tensor in state.items() if name in expected or not name.startswith(classifiers)}
    absent = {name for name in expected if name.startswith(classifiers)}
    new_head = bool(absent) and not absent & state.keys()

    reshaped = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    resample = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if reshaped and resample is not None and all("pos" in name for name in reshaped):
        try:
            state = resample(state, model)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{description}: the position table '{reshaped[0]}' cannot be resampled to this image size: "
                "choose another --image_size"
            ) from error
    for name, tensor in expected.items():
        if name not in state:
            if new_head and name in absent:
                continue
            raise UserError(f"{description}: the file has no tensor '{name}'")
        if state[name].shape != tensor.shape:
            raise UserError(
                f"{description}: '{name}' is {tuple(state[name].shape)} in the file and {tuple(tensor.shape)} in the "
                "model: check the model's name, its arguments, its image size and the number of classes"
            )
    left_over = [name for name in state if name not in expected]
    if left_over:
        raise UserError(f"{description}: the model has no tensor '{left_over[0]}'")
    model.load_state_dict(state, strict=not new_head)
    return not new_head


def classifier_names(config: Any) -> tuple[str, ...]:
    """Module paths of the classifier layers, from a timm model's `pretrained_cfg` (or a mapping like it)."""
    names = (config.get("classifier") if isinstance(config, dict) else config.classifier) or ()
    return (names,) if isinstance(names, str) else tuple(names)


def save_model(model: StagedModel, path: str | Path, *, classes: list[str] | None = None) -> None:
    """Write the wrapped model's weights and its card as safetensors; plain timm reads the same file.

    timm needs the arguments that the model was made with. A lowered stem is none of its arguments: such a file holds
    one more tensor, so that timm refuses it instead of giving wrong answers.

    A model of `build_model` can be read from its file alone. So can a timm model that was created by hand, where its
    name alone, with the number of classes and the image size, builds the same module again: that is tried here. With
    other arguments, or for any other module, the file is written all the same, and `load_student` is given the module.

    The file appears complete or not at all: it is written beside and renamed.

    Args:
        model: the model.
        path: the file to write.
        classes: names of the outputs; default: those of the card.

    Raises:
        OSError: the folder is not writable or the disk is full; an older file at `path` is left as it was.
    """
    path = Path(path)
    card = card_to_write(model)
    card = replace(card, classes=classes or card.classes)
    # One entry only: safetensors writes several in any order, and equal runs should write equal files.
    metadata = {_METADATA_KEY: card.to_json()}
    # Cloned, because safetensors refuses tied weights, which share memory.
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.model.state_dict().items()}
    if card.stem_stride is not None:
        state[STEM_STRIDE] = torch.tensor(card.stem_stride)
    # Bytes written by Python, because safetensors' own writer hides "disk full" in an error that is no OSError.
    content = safetensors.torch.save(state, metadata)
    with written_whole(path) as beside, open(beside, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
