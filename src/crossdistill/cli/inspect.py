"""`crossdistill inspect`: a teacher and a student side by side."""

from itertools import islice
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from crossdistill.cli.device import add_accelerator_option, find_device
from crossdistill.cli.named_models import (
    add_model_options,
    add_size_options,
    build_named,
    build_named_detectors,
    check_named,
)
from crossdistill.cli.parsing import make_parser, parse
from crossdistill.errors import UserError
from crossdistill.methods import METHODS
from crossdistill.options import DataOptions, DetectionOptions, height_and_width
from crossdistill.options.values import PositiveInt

if TYPE_CHECKING:
    from crossdistill.analysis.gradients import Gradients
    from crossdistill.data import ImageData
    from crossdistill.staged import StagedModel

# Batches that gradients are measured on.
_BATCHES = 4
# Training images that a method is told of where there is no data, and is shown to measure what it must know of them.
_NO_DATA = 50_000
_PREPARED_ON = 1000


def run(arguments: list[str]) -> None:
    """Print the stages of both models, what is matched with what, and each method's cost or why it does not fit."""
    parser = make_parser("inspect", "The stages of a teacher and a student, and what each method costs for the pair.")
    parser.add_argument("TEACHER", type=str, help="a model's name, or a weights file or run folder of this program")
    parser.add_argument("STUDENT", type=str, help="as TEACHER")
    add_model_options(parser, "teacher")
    add_model_options(parser, "student")
    parser.add_argument(
        "--num_classes", type=int | None, default=None, help="classes of the data; default: the teacher's"
    )
    add_size_options(parser)
    parser.add_argument("--methods", type=str, default=",".join(METHODS), help="comma-separated names or dotted paths")
    for option, meaning in (
        ("time", "a training step of each method, and say how long an epoch takes; two steps of each are run"),
        ("measure", "how strong the gradient of each loss term is when training starts, on four training batches"),
    ):
        parser.add_argument(
            f"--{option}", type=bool, nargs="?", const=True, default=False, help=f"also measure {meaning}"
        )
    parser.add_argument(
        "--data", type=str | None, default=None, help="training images for --measure, as for `distill`; default: noise"
    )
    parser.add_argument("--batch_size", type=PositiveInt, default=32, help="images of a step that is measured")
    parser.add_argument("--train_images", type=PositiveInt, default=50_000, help="images of an epoch")
    add_accelerator_option(parser, "where steps are measured")
    parser.add_class_arguments(DetectionOptions)
    options = parse(parser, arguments)
    detection = options.task == "detection"
    if detection and options.data:
        raise UserError("--data: detectors are measured on noise; leave it out with --task detection")
    if options.data and not options.measure:
        raise UserError("--data is what --measure measures on: add --measure, or leave --data out")
    for name in (options.TEACHER, options.STUDENT):
        if not detection:
            check_named(name)

    import torch

    from crossdistill.analysis.inspection import Timing, inspect_pair
    from crossdistill.cli.tables import show
    from crossdistill.data import open_data

    data = open_data(options.data) if options.data else None
    if options.measure:
        # A new student and the methods' own parts begin alike in every call.
        torch.manual_seed(0)
    size = height_and_width(options.image_size, "image_size")
    teacher_size = height_and_width(options.teacher_image_size, "teacher_image_size") or size
    num_classes = options.num_classes if data is None else len(data.classes)
    if detection:
        teacher, student = build_named_detectors(options, teacher_size, size)
    else:
        teacher = build_named(options, "teacher", options.TEACHER, num_classes, teacher_size)
        classes = num_classes or teacher.num_classes or None
        student = build_named(options, "student", options.STUDENT, classes, size, options.stem_stride)
    methods = [name.strip() for name in options.methods.split(",") if name.strip()]
    if options.time or options.measure:
        device = find_device(options.accelerator)
        teacher, student = teacher.to(device), student.to(device)
    timing = None
    if options.time:
        timing = Timing(options.batch_size, options.train_images)
        if "scratch" not in methods:
            # What a method costs shows beside the student alone.
            methods.insert(0, "scratch")
    inspection = inspect_pair(teacher, student, methods, timing)
    show(inspection)
    fitting = [method.name for method in inspection.methods if not method.refusal]
    if options.measure and fitting:
        show(_gradients(options, fitting, teacher, student, data))


def _gradients(
    options: Namespace, methods: list[str], teacher: "StagedModel", student: "StagedModel", data: "ImageData | None"
) -> "Gradients":
    import torch

    from crossdistill.analysis.gradients import measure_gradients
    from crossdistill.data import Batch, TrainLoader

    device, size = next(student.parameters()).device, options.batch_size
    batches: list[Batch]
    if data is not None:
        loader = TrainLoader(
            data.train,
            image_size=student.image_size,
            batch_size=size,
            data_seed=0,
            device=device,
            options=DataOptions(workers=0),
        )
        epoch = loader.epoch(0)
        batches = list(islice(epoch, _BATCHES))
        epoch.close()
        plain, images, train_size = loader.plain(_PREPARED_ON), data.name, len(data.train)
    else:
        indices = torch.arange(_BATCHES * size, device=device).split(size)
        noise = [torch.rand(size, 3, *student.image_size, device=device) for _ in indices]
        batches = [
            Batch(images, student.example_targets(size), part) for images, part in zip(noise, indices, strict=True)
        ]
        plain, images, train_size = noise, "noise (--data takes real ones)", _NO_DATA
    measured_on = f"mean of {len(batches)} batches of {size} images of {images}"
    return measure_gradients(methods, teacher, student, batches, plain, train_size=train_size, measured_on=measured_on)
