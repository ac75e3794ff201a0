"""`crossdistill inspect`: a teacher and a student side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from crossdistill.cli.device import add_accelerator_option, find_device
from crossdistill.cli.parsing import make_parser, parse
from crossdistill.methods import METHODS
from crossdistill.names import check_model_name
from crossdistill.options import ModelOptions, height_and_width
from crossdistill.options.values import PositiveInt

if TYPE_CHECKING:
    from crossdistill.staged import StagedModel


def run(arguments: list[str]) -> None:
    """Print the stages of both models, what is matched with what, and each method's cost or why it does not fit."""
    parser = make_parser("inspect", "The stages of a teacher and a student, and what each method costs for the pair.")
    parser.add_argument("TEACHER", type=str, help="a model's name, or a weights file or run folder of this program")
    parser.add_argument("STUDENT", type=str, help="as TEACHER")
    _add_role(parser, "teacher")
    _add_role(parser, "student")
    parser.add_argument(
        "--num_classes", type=int | None, default=None, help="classes of the data; default: the teacher's"
    )
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
    parser.add_argument("--methods", type=str, default=",".join(METHODS), help="comma-separated names or dotted paths")
    parser.add_argument(
        "--time",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="also measure a training step of each method, and say how long an epoch takes; two steps of each are run",
    )
    parser.add_argument("--batch_size", type=PositiveInt, default=32, help="images of a step whose time is measured")
    parser.add_argument("--train_images", type=PositiveInt, default=50_000, help="images of an epoch")
    add_accelerator_option(parser, "where steps are measured")
    options = parse(parser, arguments)
    for name in (options.TEACHER, options.STUDENT):
        if not Path(name).expanduser().exists():
            check_model_name(name)

    from crossdistill.analysis.inspection import Timing, inspect_pair
    from crossdistill.cli.tables import show

    size = height_and_width(options.image_size, "image_size")
    teacher_size = height_and_width(options.teacher_image_size, "teacher_image_size") or size
    teacher = _build(options, "teacher", options.num_classes, teacher_size)
    classes = options.num_classes or teacher.num_classes or None
    student = _build(options, "student", classes, size, stem_stride=options.stem_stride)
    methods = [name.strip() for name in options.methods.split(",") if name.strip()]
    timing = None
    if options.time:
        timing = Timing(options.batch_size, options.train_images)
        device = find_device(options.accelerator)
        teacher, student = teacher.to(device), student.to(device)
        if "scratch" not in methods:
            # What a method costs shows beside the student alone.
            methods.insert(0, "scratch")
    show(inspect_pair(teacher, student, methods, timing))


def _add_role(parser: ArgumentParser, role: str) -> None:
    parser.add_argument(f"--{role}_weights", type=str, default="none", help="`none`, `pretrained`, or a file")
    parser.add_argument(
        f"--{role}.kwargs", type=dict[str, Any], default={}, help="arguments of the model, such as img_size: 32"
    )
    parser.add_argument(
        f"--{role}_stages", type=str | None, default=None, help="comma-separated module paths of the stage ends"
    )


def _build(
    options: Namespace, role: str, num_classes: int | None, size: tuple[int, int] | None, stem_stride: int | None = None
) -> "StagedModel":
    import timm

    from crossdistill.models import build_model

    name, weights = options[role.upper()], options[f"{role}_weights"]
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
