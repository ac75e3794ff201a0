"""What a run is made of: its data, its models and its batches, as the options say."""

import torch
from lightning.fabric import Fabric
from rich.console import Console

from crossdistill.data import (
    EvalLoader,
    ImageData,
    Mixer,
    TrainLoader,
    ValidationData,
    first_of_each_class,
    hold_out,
    open_data,
)
from crossdistill.data.memory import sample_sizes
from crossdistill.distiller import Distiller
from crossdistill.errors import UserError
from crossdistill.evaluation import Probe
from crossdistill.methods import METHODS, load_method
from crossdistill.methods.catalogue import read_entry
from crossdistill.models import build_model
from crossdistill.options import DataOptions, PairOptions, TrainingOptions, height_and_width
from crossdistill.staged import StagedModel

# Evaluation keeps no gradients, so it can take larger batches than training.
_EVALUATION_BATCH = 256
# Share of images without labels that is validated on, where nothing is said of it.
_HELD_OUT_WITHOUT_LABELS = 0.05


def open_run_data(name: str, options: DataOptions) -> ImageData:
    """The data of a run, with its held-out images where it has some; of images without labels there are always some."""
    return chosen_images(open_data(name, on_bad_image=options.on_bad_image, without_labels=True), options)


def chosen_images(data: ImageData, options: DataOptions) -> ImageData:
    """The part of a data set that a run trains on, and what it validates on."""
    if options.images_per_class is not None:
        data = first_of_each_class(data, options.images_per_class)
    share = options.held_out or (0.0 if data.labelled else _HELD_OUT_WITHOUT_LABELS)
    return hold_out(data, share) if share else data


def check_labels(data: ImageData, method: type[Distiller]) -> None:
    """Refuse a method that does not go with images without labels, and say which do.

    Raises:
        UserError: as said.
    """
    if data.labelled or not method.needs.labels:
        return
    fitting = [name for name, path in METHODS.items() if not read_entry(path).needs.get("labels")]
    raise UserError(
        f"{method.__name__} learns from labels, and {data.name} has none (no train/ and val/ with a folder per class): "
        f"give labelled images, or a method that needs none: {', '.join(fitting)}"
    )


def build_models(options: PairOptions, data: ImageData) -> tuple[StagedModel, StagedModel | None]:
    """The student, whose size is that of the batches, and the teacher where one is given.

    Without labels a student has the teacher's classes where the method reads its logits, else no head.
    """
    if data.labelled:
        return build_student(options, data, len(data.classes)), build_teacher(options, data)
    # A student begins alike whatever the teacher.
    with torch.random.fork_rng(devices=[]):
        teacher = build_teacher(options, data)
    reads_logits = load_method(options.method.name).needs.student & {"logits", "head_logits"}
    return build_student(options, data, teacher.num_classes if teacher is not None and reads_logits else 0), teacher


def build_student(options: PairOptions, data: ImageData, num_classes: int) -> StagedModel:
    """The student."""
    return build_model(
        options.student,
        weights=options.student_weights,
        new_head=options.student_new_head,
        num_classes=num_classes,
        image_size=_image_size(options, data),
        stage_ends=options.student_stages,
        stem_stride=options.stem_stride,
        role="student",
    )


def build_teacher(options: PairOptions, data: ImageData | ValidationData) -> StagedModel | None:
    """The teacher, where one is given."""
    if options.teacher_classes and not data.classes:
        raise UserError(f"--teacher_classes maps the classes of the data, and {data.name} has none: leave it out")
    if not (options.teacher.name or options.teacher_weights not in ("none", "pretrained")):
        return None
    return build_model(
        options.teacher,
        weights=options.teacher_weights,
        num_classes=None if options.teacher_classes or not data.classes else len(data.classes),
        image_size=height_and_width(options.teacher_image_size, "teacher_image_size"),
        stage_ends=options.teacher_stages,
        role="teacher",
        classes_file=options.teacher_classes,
        class_names=data.classes,
    )


def make_loaders(
    options: TrainingOptions, data: ImageData, student: StagedModel, fabric: Fabric
) -> tuple[TrainLoader, EvalLoader]:
    """Training and validation batches of this process, at the student's size."""
    train = TrainLoader(
        data.train,
        image_size=student.image_size,
        batch_size=options.batch_size,
        accumulate=options.accumulate,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        data_seed=options.stream_seed,
        device=fabric.device,
        options=options.part(DataOptions),
    )
    validation = EvalLoader(
        data.validation,
        image_size=student.image_size,
        batch_size=_EVALUATION_BATCH,
        device=fabric.device,
        workers=options.workers,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        cache_images=options.cache_images,
    )
    return train, validation


def make_probe(options: TrainingOptions, student: StagedModel, fabric: Fabric) -> Probe | None:
    """The labelled images of `--probe_data` for this process; None where there are none."""
    if not options.probe_data:
        return None
    return Probe(
        open_data(options.probe_data, on_bad_image=options.on_bad_image),
        image_size=student.image_size,
        batch_size=_EVALUATION_BATCH,
        device=fabric.device,
        workers=options.workers,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        cache_images=options.cache_images,
    )


def make_mixer(options: TrainingOptions, data: ImageData) -> Mixer:
    """Label smoothing and mixing of a run."""
    return Mixer(len(data.classes), options.label_smoothing, options.mixup, options.cutmix, options.stream_seed)


def warn_of_enlarging(data: ImageData, student: StagedModel, console: Console) -> None:
    """A model's own size can be many times that of the images, and nobody asked for what that costs."""
    sizes = sample_sizes(data.train)
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    if 2 * height <= student.image_size[0] and 2 * width <= student.image_size[1]:
        own = "x".join(map(str, student.image_size))
        console.print(
            f"warning: the images are {height}x{width} and are enlarged to {own}, the size that {student.name} is made "
            f"for: --image_size {max(height, width)} would be many times faster",
            soft_wrap=True,
        )


def _image_size(options: PairOptions, data: ImageData) -> tuple[int, int] | None:
    """Height and width of the batches: asked for, the data's; None: the student's own."""
    asked_for = height_and_width(options.image_size, "image_size")
    if asked_for is not None or "img_size" in options.student.kwargs:
        return asked_for
    if data.train.pixels is not None and options.student_weights in ("none", "pretrained"):
        height, width = data.train.pixels.shape[-2:]
        return height, width
    return None
