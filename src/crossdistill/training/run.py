"""One training run from its options: build everything, check it, train, and write down what came out."""

import os
import random
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.modules.batchnorm import _BatchNorm

from crossdistill.data import EvalLoader, ImageData, Mixer, TrainLoader, open_data
from crossdistill.data.memory import sample_sizes
from crossdistill.distiller import Distiller
from crossdistill.errors import UserError
from crossdistill.evaluation.accuracy import answers
from crossdistill.methods import build_distiller, parse_hyperparameters
from crossdistill.models import build_model, save_model
from crossdistill.options import TrainingOptions, height_and_width
from crossdistill.staged import StagedModel
from crossdistill.training.devices import make_fabric, peak_memory
from crossdistill.training.log import RunLog
from crossdistill.training.optimization import check_optimizer
from crossdistill.training.preflight import check_teacher
from crossdistill.training.run_folder import RunFolder, write_json
from crossdistill.training.trainer import Loop

# Evaluation keeps no gradients, so it can take larger batches than training.
_EVALUATION_BATCH = 256


def distill(
    options: TrainingOptions, console: Console | None = None, given: Collection[str] | None = None
) -> dict[str, Any]:
    """Train a student as `options` say.

    Everything that can be refused is refused before the run folder is made. With several devices each process calls
    this; the first one writes.

    Args:
        options: the teacher, the student, the method, the data and the recipe.
        console: where to report; default: the standard output.
        given: names of the options that a run that goes on must have been started with, where they are not free to
            change; default: those that are not at their defaults.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: a mistake in the options, the files or the pair, or a run that cannot go on.
        KeyboardInterrupt: stopped by SIGINT or SIGTERM, after a checkpoint was written.
    """
    folder = RunFolder(options.output)
    first = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0
    if first or options.resume:
        folder.check(options.resume)
    if options.resume:
        options = folder.merge_recipe(options, given)
    _check_options(options)
    console = (console or Console()) if first else Console(quiet=True)

    data = open_data(options.data, on_bad_image=options.on_bad_image)
    if data.skipped:
        console.print(f"skipped {data.skipped} images that cannot be decoded")
    fabric = make_fabric(options)
    _seed(options.seed)
    student, teacher = build_models(options, data)
    if options.image_size is None:
        _warn_of_enlarging(data, student, console)
    _seed(options.seed)
    distiller = build_distiller(options.method, student, teacher, train_size=len(data.train))
    _check_single_images(options, distiller, fabric.world_size)
    mixer = _mixer(options, data)

    fabric.launch()
    train, validation = _loaders(options, data, student, fabric.device, fabric.global_rank, fabric.world_size)
    distiller.to(fabric.device)
    if options.sync_batch_norm and fabric.world_size > 1:
        _synchronise_batch_norms(distiller, fabric.device)
    teacher_answers, teacher_top1 = None, None
    if teacher is not None:
        if not options.resume:
            _preflight(options, data, student, teacher, fabric.device, console)
        if teacher.num_classes:
            teacher_answers, teacher_top1 = answers(teacher, validation, len(data.validation))

    loop = Loop(fabric, options, distiller, train, validation, mixer, folder, teacher_answers)
    _seed(options.seed + fabric.global_rank)
    resumed = options.resume and loop.resume()
    if not resumed:
        distiller.prepare(train.plain())
    log = None
    if fabric.global_rank == 0:
        folder.create(options)
        log = RunLog(folder, loop.total_steps, loop.step, console)
        if resumed:
            log.message(f"going on at step {loop.step} of {loop.total_steps}")
    try:
        loop.run(log)
    except torch.OutOfMemoryError as error:
        raise UserError("the device has too little memory: lower --batch_size, or raise --accumulate") from error
    finally:
        if log is not None:
            log.close()
    summary = _summary(options, data, distiller, loop, teacher_top1)
    if fabric.global_rank == 0:
        save_model(loop.result, folder.student, classes=data.classes)
        write_json(folder.summary, summary)
        _print_table(console, summary, folder)
    fabric.barrier()
    return summary


def _check_options(options: TrainingOptions) -> None:
    """Refuse what no run can have, before anything is loaded.

    Raises:
        UserError: naming the option.
    """
    if not options.data:
        raise UserError("--data is missing: an image folder with train/ and val/, or the name of a built-in set")
    if not (options.student.name or options.student_weights not in ("none", "pretrained")):
        raise UserError("--student is missing: name the model to train (see: crossdistill models)")
    options.check_ranges()
    check_optimizer(options.optimizer)
    parse_hyperparameters(options.method)


def _check_single_images(options: TrainingOptions, distiller: Distiller, processes: int) -> None:
    """Refuse steps of one image where a batch norm would have a single value to take its statistics of."""
    if options.batch_size > processes * options.accumulate or distiller.student.stages[-1].size != (1, 1):
        return
    for name, module in distiller.named_modules():
        if isinstance(module, _BatchNorm) and not name.startswith("teacher."):
            raise UserError(
                f"a step sees one image at a time, and at {distiller.student.image_size} pixels {name} normalises one "
                "position of it: raise --batch_size, lower --accumulate, or enlarge the images"
            )


def build_models(options: TrainingOptions, data: ImageData) -> tuple[StagedModel, StagedModel | None]:
    """The student, whose size is that of the batches, and the teacher where one is given."""
    classes = len(data.classes)
    student = build_model(
        options.student,
        weights=options.student_weights,
        num_classes=classes,
        image_size=_image_size(options, data),
        stage_ends=options.student_stages,
        stem_stride=options.stem_stride,
        role="student",
    )
    if not (options.teacher.name or options.teacher_weights not in ("none", "pretrained")):
        return student, None
    teacher = build_model(
        options.teacher,
        weights=options.teacher_weights,
        num_classes=None if options.teacher_classes else classes,
        image_size=height_and_width(options.teacher_image_size, "teacher_image_size"),
        stage_ends=options.teacher_stages,
        role="teacher",
        classes_file=options.teacher_classes,
        class_names=data.classes,
    )
    return student, teacher


def _image_size(options: TrainingOptions, data: ImageData) -> tuple[int, int] | None:
    """Height and width of the batches: asked for, the student's own, the data's; None: timm's default."""
    if options.image_size is not None:
        return height_and_width(options.image_size, "image_size")
    if "img_size" in options.student.kwargs:
        return height_and_width(options.student.kwargs["img_size"], "student.kwargs.img_size")
    if data.train.pixels is not None and options.student_weights in ("none", "pretrained"):
        height, width = data.train.pixels.shape[-2:]
        return height, width
    return None


def _warn_of_enlarging(data: ImageData, student: StagedModel, console: Console) -> None:
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


def _mixer(options: TrainingOptions, data: ImageData) -> Mixer:
    seed = options.seed if options.data_seed is None else options.data_seed
    return Mixer(len(data.classes), options.label_smoothing, options.mixup, options.cutmix, seed)


def _loaders(
    options: TrainingOptions, data: ImageData, student: StagedModel, device: torch.device, rank: int, world_size: int
) -> tuple[TrainLoader, EvalLoader]:
    train = TrainLoader(
        data.train,
        image_size=student.image_size,
        batch_size=options.batch_size,
        accumulate=options.accumulate,
        rank=rank,
        world_size=world_size,
        data_seed=options.seed if options.data_seed is None else options.data_seed,
        device=device,
        options=options,
    )
    validation = EvalLoader(
        data.validation,
        image_size=student.image_size,
        batch_size=_EVALUATION_BATCH,
        device=device,
        workers=options.workers,
        rank=rank,
        world_size=world_size,
        cache_images=options.cache_images,
    )
    return train, validation


def _preflight(
    options: TrainingOptions,
    data: ImageData,
    student: StagedModel,
    teacher: StagedModel,
    device: torch.device,
    console: Console,
) -> None:
    checked = check_teacher(
        teacher,
        student,
        data,
        images=options.preflight_images,
        allow_weak=options.allow_weak_teacher,
        device=device,
    )
    for warning in checked["warnings"]:
        console.print(f"warning: {warning}", soft_wrap=True)


def _synchronise_batch_norms(distiller: Distiller, device: torch.device) -> None:
    """Let the batch norms of the student and of the method's own parts see the whole batch.

    Raises:
        UserError: the device cannot.
    """
    from timm.layers import convert_sync_batchnorm

    if device.type == "cpu":
        raise UserError("--sync_batch_norm true needs GPUs: PyTorch synchronises no batch norms on the CPU")
    for name, part in distiller.named_children():
        if part is distiller.student:
            distiller.student.model = convert_sync_batchnorm(distiller.student.model)
            distiller.student.attach_hooks()
        elif part is not distiller.teacher:
            setattr(distiller, name, convert_sync_batchnorm(part))


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _summary(
    options: TrainingOptions, data: ImageData, distiller: Distiller, loop: Loop, teacher_top1: float | None
) -> dict[str, Any]:
    import timm

    evaluation = dict(loop.last_evaluation)
    agreement = evaluation.pop("agreement", None)
    top1 = evaluation.pop("top1")
    for name in ("images", "seconds"):
        evaluation.pop(name)
    images = loop.step * options.batch_size
    return {
        "method": options.method.name,
        "method_kwargs": options.method.kwargs,
        "teacher": distiller.teacher.name if distiller.teacher is not None else None,
        "student": distiller.student.name,
        "data": data.name,
        "image_size": list(distiller.student.image_size),
        "seed": options.seed,
        "epochs": options.epochs,
        "steps": loop.step,
        "top1": top1,
        "best_top1": loop.best_top1,
        **evaluation,
        "teacher_top1": teacher_top1,
        "teacher_agreement": agreement,
        "evaluated_weights": "moving average" if loop.ema is not None else "last step",
        "train_images": len(data.train),
        "validation_images": len(data.validation),
        "skipped_images": data.skipped,
        "student_params": sum(parameter.numel() for parameter in distiller.student.parameters()),
        "extra_params": distiller.extra_parameters(),
        "images_per_second": images / loop.seconds if loop.seconds else 0.0,
        "seconds": loop.seconds,
        "peak_memory_bytes": peak_memory(loop.fabric.device),
        "device": torch.cuda.get_device_name(loop.fabric.device)
        if loop.fabric.device.type == "cuda"
        else loop.fabric.device.type,
        "devices": loop.fabric.world_size,
        "precision": options.precision,
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def _print_table(console: Console, summary: dict[str, Any], folder: RunFolder) -> None:
    table = Table(title=f"{summary['method']}: {summary['student']} on {summary['data']}", show_header=False)
    table.add_row("top-1", f"{summary['top1']:.2f} % (last epoch; best {summary['best_top1']:.2f} %)")
    if summary["teacher"]:
        table.add_row("teacher", summary["teacher"])
    if summary["teacher_top1"] is not None:
        table.add_row("teacher's top-1", f"{summary['teacher_top1']:.2f} %")
        table.add_row("agreement with the teacher", f"{summary['teacher_agreement']:.2f} %")
    table.add_row("parameters", f"{summary['student_params']:,} (+ {summary['extra_params']:,} while training)")
    table.add_row("training", f"{summary['seconds']:.1f} s, {summary['images_per_second']:.0f} images/s")
    table.add_row("peak memory", f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB")
    table.add_row("student", str(folder.student))
    console.print(table)
