"""What `inspect`, `analyze` and `rank` share: models by name, weights file or run folder, with options of their own."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from crossdistill.names import check_model_name
from crossdistill.options import ModelOptions

if TYPE_CHECKING:
    from crossdistill.staged import StagedModel


def add_model_options(parser: ArgumentParser, role: str, weights: str = "none") -> None:
    """The options of a model that is named by an argument.

    Args:
        parser: from `make_parser`.
        role: `teacher` or `student`.
        weights: the default of `--<role>_weights`.
    """
    parser.add_argument(f"--{role}_weights", type=str, default=weights, help="`none`, `pretrained`, or a file")
    parser.add_argument(
        f"--{role}.kwargs", type=dict[str, Any], default={}, help="arguments of the model, such as img_size: 32"
    )
    parser.add_argument(
        f"--{role}_stages", type=str | None, default=None, help="comma-separated module paths of the stage ends"
    )


def add_size_options(parser: ArgumentParser) -> None:
    """`--image_size`, `--teacher_image_size` and `--stem_stride`."""
    parser.add_argument(
        "--image_size",
        type=int | list[int] | None,
        default=None,
        help="side in pixels, or height and width; default: each model's own",
    )
    parser.add_argument(
        "--teacher_image_size",
        type=int | list[int] | None,
        default=None,
        help="what the teacher sees; default: --image_size",
    )
    parser.add_argument(
        "--stem_stride", type=int | None, default=None, help="total stride of the student's stem and first stage"
    )


def check_named(name: str) -> None:
    """Refuse what is neither a file nor a folder nor a name that a model has, before torch is imported.

    Raises:
        UserError: with the nearest name.
    """
    if not Path(name).expanduser().exists():
        check_model_name(name)


def build_named(
    options: Namespace,
    role: str,
    name: str,
    num_classes: int | None,
    size: tuple[int, int] | None,
    stem_stride: int | None = None,
) -> "StagedModel":
    """The model of the parsed options.

    Args:
        options: with those of `add_model_options`.
        role: `teacher` or `student`.
        name: a model's name, a weights file or a run folder.
        num_classes: classes of the data; None takes what the model has.
        size: (height, width) that it sees; None: its own.
        stem_stride: of its stem and first stage.

    Raises:
        UserError: as `build_model`.
    """
    import timm

    from crossdistill.models import build_model

    weights = options[f"{role}_weights"]
    # A folder may be called like a model; `./resnet18` is the folder.
    if Path(name).expanduser().exists() and not timm.is_model(name):
        name, weights = "", name
    return build_model(
        ModelOptions(name, options[f"{role}.kwargs"]),
        weights=weights,
        num_classes=num_classes,
        image_size=size,
        stage_ends=options[f"{role}_stages"],
        stem_stride=stem_stride,
        role=role,
    )


def build_named_detectors(
    options: Namespace, teacher_size: tuple[int, int] | None, size: tuple[int, int] | None
) -> "tuple[StagedModel, StagedModel]":
    """The teacher and the student of the parsed options as a run of detection has them.

    Args:
        options: with those of `add_model_options` and of `DetectionOptions`, and `num_classes`.
        teacher_size: (height, width) that the teacher sees; None: its own.
        size: that of the student.

    Raises:
        UserError: as the task's `build_models`.
    """
    import torch

    from crossdistill.detection import DetectionData
    from crossdistill.detection.build import read_card
    from crossdistill.detection.sources import FileScenes
    from crossdistill.detection.task import Detection
    from crossdistill.models import weights_file
    from crossdistill.options import TrainingOptions

    values: dict[str, Any] = {
        key: options[key] for key in ("task", "detector", "pyramid_channels", "score_threshold", "stem_stride")
    }
    classes: list[str] | None = None
    for role, argument in (("teacher", options.TEACHER), ("student", options.STUDENT)):
        name, weights = argument, options[f"{role}_weights"]
        if Path(name).expanduser().exists():
            name, weights = "", str(weights_file(argument))
            held = read_card(weights)
            if held is not None and held[1].detector is not None:
                classes = classes or held[1].classes
                if role == "student":
                    values["detector"] = held[1].detector["head"]
                    values["pyramid_channels"] = held[1].detector["pyramid_channels"]
        values[role] = ModelOptions(name, options[f"{role}.kwargs"])
        values[f"{role}_weights"], values[f"{role}_stages"] = weights, options[f"{role}_stages"]
    values["image_size"], values["teacher_image_size"] = size and list(size), teacher_size and list(teacher_size)
    classes = classes or [str(k) for k in range(options.num_classes or 1)]
    data = DetectionData("", classes, FileScenes([], []), FileScenes([], []))
    with torch.random.fork_rng(devices=[]):
        student, teacher = Detection().build_models(TrainingOptions(**values), data)
    assert teacher is not None
    return teacher, student
