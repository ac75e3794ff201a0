"""From names and files to detectors: a new head on any backbone, our own files, and torchvision's trained ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection as torchvision_detection
from torchvision.models import get_model, get_model_weights, list_models

from crossdistill.detection.detector import StagedDetector
from crossdistill.detection.heads import HEADS
from crossdistill.detection.pyramid import Pyramid
from crossdistill.errors import UserError
from crossdistill.models import build_model
from crossdistill.models.weights import load_weights, read_weights, weights_file
from crossdistill.options import ModelOptions
from crossdistill.staged import ModelCard, StagedModel


def build_detector(
    options: ModelOptions,
    *,
    weights: str,
    classes: list[str],
    head: str,
    pyramid_channels: int,
    image_size: tuple[int, int] | None = None,
    stage_ends: str | None = None,
    stem_stride: int | None = None,
    score_threshold: float = 0.05,
    role: str = "student",
) -> StagedDetector:
    """A detector whose backbone is any model, or the one that a file holds.

    Args:
        options: the backbone, as for `build_model`.
        weights: `none`, `pretrained`, or a file: of a classifier, whose head is left out, or of a detector.
        classes: of the data.
        head: one of `HEADS`.
        pyramid_channels: C of the levels.
        image_size: (height, width) of the batches; default: the file's, else the backbone's own.
        stage_ends: as for `build_model`.
        stem_stride: as for `build_model`.
        score_threshold: boxes with a lower score are not given.
        role: "student" or "teacher", for the flags in errors.

    Raises:
        UserError: as `build_model`; a file of a detector with another head, pyramid or other classes.
    """
    held = read_card(weights)
    if held is not None and held[1].detector is not None:
        state, card = held
        made = {"head": head, "pyramid_channels": pyramid_channels}
        asked = {key: card.detector.get(key) for key in made}  # type: ignore[union-attr]
        if role == "student" and asked != made:
            raise UserError(
                f"'{weights}' holds a detector with --detector {asked['head']} --pyramid_channels "
                f"{asked['pyramid_channels']}: give these"
            )
        if card.classes != classes:
            raise UserError(
                f"'{weights}' was trained on the classes {', '.join(card.classes or [])[:200]}, and the data has "
                f"{', '.join(classes)[:200]}"
            )
        if options.name and options.name.partition(".")[0] != card.name.partition(".")[0]:
            raise UserError(f"--{role} {options.name} contradicts '{weights}', which holds {card.name}: leave it out")
        return _from_card(weights, state, card, image_size, score_threshold)
    backbone = build_model(
        options,
        weights=weights,
        num_classes=0,
        image_size=image_size,
        stage_ends=stage_ends,
        stem_stride=stem_stride,
        role=role,
        new_head=held is not None or weights not in ("none", "pretrained"),
    )
    return _on_backbone(backbone, head, pyramid_channels, classes, score_threshold)


def load_detector(path: str | Path, *, score_threshold: float = 0.05) -> StagedDetector:
    """The detector of a run folder or of a file that this package wrote, in eval mode.

        detector = load_detector("runs/fcos")
        found = detector.detect(detector(images))[0]["boxes"]

    Args:
        path: a run folder, or a weights file.
        score_threshold: boxes with a lower score are not given.

    Raises:
        UserError: no such file, or a file that holds no detector.
    """
    file = weights_file(path)
    state, card = read_weights(file)
    if card is None or card.detector is None:
        raise UserError(f"'{file}' holds no detector: give the run folder of one, or leave --task detection out")
    return _from_card(str(file), state, card, None, score_threshold).eval()


def build_torchvision_detector(
    options: ModelOptions, *, weights: str, classes: list[str], image_size: tuple[int, int]
) -> StagedDetector:
    """One of torchvision's own detectors, as a teacher.

    Args:
        options: its name in torchvision, and arguments such as `num_classes` (with the background).
        weights: `none`, `pretrained` (its COCO weights), or a file with a state dict.
        classes: of the data; the model has these unless it has the labels of COCO.
        image_size: (height, width) that it sees.

    Raises:
        UserError: weights that cannot be had or do not fit, refused arguments.
    """
    published = get_model_weights(options.name).DEFAULT
    kwargs: dict[str, Any] = {"weights": None, "weights_backbone": None} | options.kwargs
    if weights == "pretrained":
        kwargs["weights"] = published
    try:
        model = get_model(options.name, **kwargs)
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        raise UserError(f"{options.name} cannot be built: {' '.join(str(error).split())[:200]}") from error
    trained = weights != "none"
    if weights not in ("none", "pretrained"):
        state, _ = read_weights(weights)
        load_weights(model, state, description=f"'{weights}' does not fit {options.name}")
    of_coco = "num_classes" not in options.kwargs
    transform: Any = model.transform
    staged = StagedDetector(
        model,
        name=options.name,
        image_size=image_size,
        classes=published.meta["categories"] if of_coco else classes,
        mean=transform.image_mean,
        std=transform.image_std,
        # COCO's labels name the background too, as the first class.
        first_label=0 if of_coco else 1,
    )
    staged.card = replace(staged.card, head_trained=trained, weights=weights)
    return staged


def is_torchvision_detector(name: str) -> bool:
    """Whether torchvision has a detector of this name; no model of timm is called so."""
    return name in list_models(module=torchvision_detection)


def read_card(weights: str) -> tuple[dict[str, Tensor], ModelCard] | None:
    """What a weights file holds and says of it; None where it is none of ours, or no file."""
    if weights in ("none", "pretrained") or not Path(weights).expanduser().exists():
        return None
    state, card = read_weights(weights_file(weights))
    return None if card is None else (state, card)


def _from_card(
    source: str, state: dict[str, Tensor], card: ModelCard, image_size: tuple[int, int] | None, score_threshold: float
) -> StagedDetector:
    assert card.detector is not None
    backbone = build_model(
        ModelOptions(card.name, dict(card.kwargs)),
        num_classes=0,
        image_size=image_size or card.image_size,
        stage_ends=card.stage_ends,
        stem_stride=card.stem_stride,
    )
    # The weights that the backbone began with may have had a normalisation of their own.
    for buffer, values in ((backbone.mean, card.mean), (backbone.std, card.std)):
        buffer.copy_(torch.tensor(values).reshape(1, 3, 1, 1))
    backbone.card = replace(backbone.card, mean=card.mean, std=card.std)
    head, channels = card.detector["head"], card.detector["pyramid_channels"]
    detector = _on_backbone(backbone, head, channels, card.classes or [], score_threshold)
    state = {name: tensor for name, tensor in state.items() if not name.startswith("crossdistill_")}
    load_weights(detector.model, state, description=f"'{source}' does not fit {detector.name}")
    detector.card = replace(detector.card, head_trained=True, weights=source)
    return detector


def _on_backbone(
    backbone: StagedModel, head: str, channels: int, classes: list[str], score_threshold: float
) -> StagedDetector:
    model = HEADS[head](backbone, len(classes), channels)
    pyramid = model.backbone
    assert isinstance(pyramid, Pyramid)
    detector = StagedDetector(
        model,
        name=f"{head} on {backbone.name}",
        image_size=backbone.image_size,
        classes=classes,
        first_label=1 if head == "faster_rcnn" else 0,
        mixing=pyramid.mixing,
    )
    _set_score_threshold(model, score_threshold)
    detector.card = replace(
        backbone.card, classes=classes, detector={"head": head, "pyramid_channels": channels}, head_trained=False
    )
    return detector


def _set_score_threshold(model: nn.Module, threshold: float) -> None:
    owner: Any = model.roi_heads if hasattr(model, "roi_heads") else model
    owner.score_thresh = threshold
