"""One training run: from its options or from live objects to a trained student and what is written down of it."""

import os
import warnings
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from lightning.fabric import Fabric
from rich.console import Console
from torch.nn.modules.batchnorm import _BatchNorm

from crossdistill.data import EvalLoader, ImageData, Mixer, TrainLoader, hold_out, open_data
from crossdistill.data.memory import sample_sizes
from crossdistill.distiller import Distiller
from crossdistill.errors import UserCaution, UserError
from crossdistill.evaluation import empty_logits, predict
from crossdistill.methods import build_distiller, parse_hyperparameters
from crossdistill.models import build_model, save_model, stem_advice
from crossdistill.options import (
    DataOptions,
    DeviceOptions,
    OptimizationOptions,
    PairOptions,
    ReportingOptions,
    TrainingOptions,
    check_ranges,
    height_and_width,
)
from crossdistill.staged import StagedModel
from crossdistill.training.devices import forget_peak_memory, make_fabric, over_processes
from crossdistill.training.log import RunLog
from crossdistill.training.memory_format import MemoryFormats, measure_memory_formats
from crossdistill.training.optimization import check_optimizer
from crossdistill.training.preflight import ask_teacher, check_teacher
from crossdistill.training.run_folder import RunFolder
from crossdistill.training.state import seed_everything
from crossdistill.training.summary import print_summary, summarise
from crossdistill.training.trainer import Trainer

# Evaluation keeps no gradients, so it can take larger batches than training.
_EVALUATION_BATCH = 256


def distill(
    options: TrainingOptions, console: Console | None = None, given: Collection[str] | None = None
) -> dict[str, Any]:
    """Train a student as `options` say: what `crossdistill distill` and `crossdistill train` do.

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
    folder = _folder(options)
    if options.resume:
        options = folder.merge_recipe(options, given)
    _check_options(options)
    console = _console(console)
    if options.resume and folder.finished:
        return _already_finished(folder, console)
    data = _open(options.data, options)
    if data.skipped:
        console.print(f"skipped {data.skipped} images that cannot be decoded")
    fabric = make_fabric(options.part(DeviceOptions))
    seed_everything(options.seed)
    student, teacher = build_models(options.part(PairOptions), data)
    if options.image_size is None:
        _warn_of_enlarging(data, student, console)
    if options.stem_stride is None and (advice := stem_advice(student)):
        console.print(advice, soft_wrap=True)
    seed_everything(options.seed)
    distiller = build_distiller(options.method, student, teacher, train_size=len(data.train))
    return _train(fabric, distiller, data, options, console)


def train(
    distiller: Distiller, data: ImageData | str, options: TrainingOptions, console: Console | None = None
) -> dict[str, Any]:
    """Train the student of a method that was built by hand: `crossdistill.train`.

    The same loop, run folder, checkpoints and checks as those of the command. A run that goes on (`resume`) must be
    given an equal distiller.

    Args:
        distiller: the method, with its student and its teacher.
        data: the data set, or what `--data` takes.
        options: the recipe; what they say of the models, the method and the name of the data is not read.
        console: where to report; default: the standard output.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: a mistake in the options, or a run that cannot go on.
        KeyboardInterrupt: stopped by SIGINT or SIGTERM, after a checkpoint was written.
    """
    folder = _folder(options)
    if options.resume:
        options = folder.merge_recipe(options)
    check_ranges(options)
    check_optimizer(options.optimizer)
    console = _console(console)
    if options.resume and folder.finished:
        return _already_finished(folder, console)
    if isinstance(data, str):
        data = _open(data, options)
    elif options.held_out:
        data = hold_out(data, options.held_out)
    return _train(make_fabric(options.part(DeviceOptions)), distiller, data, options, console)


def _train(
    fabric: Fabric, distiller: Distiller, data: ImageData, options: TrainingOptions, console: Console
) -> dict[str, Any]:
    """What both have in common: everything behind the construction of the models and the method."""
    folder, student, teacher = RunFolder(options.output), distiller.student, distiller.teacher
    devices, optimization, reporting = (
        options.part(DeviceOptions),
        options.part(OptimizationOptions),
        options.part(ReportingOptions),
    )
    _check_single_images(optimization, distiller, fabric.world_size)
    fabric.launch()
    forget_peak_memory(fabric.device)
    train_loader, validation = _loaders(options, data, student, fabric)
    distiller.to(fabric.device)
    if devices.sync_batch_norm and fabric.world_size > 1:
        _synchronise_batch_norms(distiller, fabric.device)
    teacher_logits, teacher_top1 = None, None
    if teacher is not None:
        if options.resume:
            teacher_logits = ask_teacher(teacher, validation)
        else:
            report = check_teacher(
                teacher,
                student,
                data,
                validation,
                images=options.preflight_images,
                allow_weak=options.allow_weak_teacher,
                reads_logits="logits" in distiller.needs.teacher,
            )
            for warning in report.warnings:
                console.print(f"warning: {warning}", soft_wrap=True)
            teacher_logits = report.logits
    if teacher_logits is not None:
        teacher_logits = over_processes(fabric, teacher_logits, "sum")
        answers = teacher_logits.argmax(dim=1)
        teacher_top1 = 100 * (answers.cpu() == data.validation.labels).float().mean().item()

    if options.channels_last == "auto":
        options = _choose_memory_format(options, distiller, fabric, console)
    trainer = Trainer(
        fabric,
        distiller,
        train_loader,
        validation,
        _mixer(options, data),
        folder,
        optimization=optimization,
        devices=options.part(DeviceOptions),
        reporting=reporting,
        teacher_answers=answers if teacher_logits is not None else None,
    )
    seed_everything(options.seed + fabric.global_rank)
    resumed = options.resume and trainer.resume()
    if not resumed:
        for name, value in distiller.prepare(train_loader.plain()).items():
            console.print(f"{name} {value:.2f}")
    log = None
    if fabric.global_rank == 0:
        folder.create(options)
        log = RunLog(folder, trainer.total_steps, trainer.state.step, console)
        if resumed:
            log.message(f"going on at step {trainer.state.step} of {trainer.total_steps}")
    try:
        trainer.fit(log)
    except torch.OutOfMemoryError as error:
        raise UserError("the device has too little memory: lower --batch_size, or raise --accumulate") from error
    finally:
        if log is not None:
            log.close()

    logits = trainer.logits
    if logits is None:
        # Killed after the last evaluation, whose numbers are in the checkpoint.
        logits = empty_logits(student, validation.size)
        predict(trainer.result.eval(), validation, logits)
    logits = over_processes(fabric, logits, "sum")
    summary = summarise(options, data, trainer, teacher_top1)
    if fabric.global_rank == 0:
        save_model(trainer.result, folder.student, classes=data.classes)
        folder.write_predictions(data, student=logits, teacher=teacher_logits)
        folder.write_summary(summary)
        print_summary(console, summary, folder)
    fabric.barrier()
    return summary


def _choose_memory_format(
    options: TrainingOptions, distiller: Distiller, fabric: Fabric, console: Console
) -> TrainingOptions:
    """The options with the faster memory order in the place of "auto"; all processes agree on it."""
    teacher = distiller.teacher if distiller.needs.teacher else None
    batch_size = options.batch_size // (fabric.world_size * options.accumulate)
    with fabric.autocast():
        found = measure_memory_formats(distiller.student, teacher, batch_size)
    times = over_processes(fabric, torch.tensor([found.contiguous, found.channels_last], device=fabric.device), "mean")
    found = MemoryFormats(*times.tolist())
    console.print(
        f"channels-last {1000 * found.channels_last:.0f} ms, contiguous {1000 * found.contiguous:.0f} ms a batch: "
        f"--channels_last {str(found.prefers_channels_last).lower()}"
    )
    return replace(options, channels_last="true" if found.prefers_channels_last else "false")


def build_models(options: PairOptions, data: ImageData) -> tuple[StagedModel, StagedModel | None]:
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


def _open(name: str, options: DataOptions) -> ImageData:
    data = open_data(name, on_bad_image=options.on_bad_image)
    return hold_out(data, options.held_out) if options.held_out else data


def _first_process() -> bool:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0


def _console(console: Console | None) -> Console:
    """Where this process reports: the others than the first are silent, their cautions too."""
    if _first_process():
        return console or Console()
    warnings.simplefilter("ignore", UserCaution)
    return Console(quiet=True)


def _folder(options: TrainingOptions) -> RunFolder:
    """The run's folder, where it can take this run."""
    folder = RunFolder(options.output)
    if _first_process() or options.resume:
        folder.check(options.resume)
    return folder


def _already_finished(folder: RunFolder, console: Console) -> dict[str, Any]:
    summary = folder.read_summary()
    console.print(f"the run in {folder.path} is finished: nothing to do")
    print_summary(console, summary, folder)
    return summary


def _check_options(options: TrainingOptions) -> None:
    """Refuse what no run can have, before anything is loaded.

    Raises:
        UserError: naming the option.
    """
    if not options.data:
        raise UserError(
            "--data is missing: an image folder with train/ and val/, the name of a built-in set, or a dotted path"
        )
    if not (options.student.name or options.student_weights not in ("none", "pretrained")):
        raise UserError("--student is missing: name the model to train (see: crossdistill models)")
    check_ranges(options)
    check_optimizer(options.optimizer)
    parse_hyperparameters(options.method)


def _check_single_images(options: OptimizationOptions, distiller: Distiller, processes: int) -> None:
    """Refuse steps of one image where a batch norm would have a single value to take its statistics of."""
    if options.batch_size > processes * options.accumulate or distiller.student.stages[-1].size != (1, 1):
        return
    for name, module in distiller.named_modules():
        if isinstance(module, _BatchNorm) and not name.startswith("teacher."):
            raise UserError(
                f"a step sees one image at a time, and at {distiller.student.image_size} pixels {name} normalises one "
                "position of it: raise --batch_size, lower --accumulate, or enlarge the images"
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


def _data_seed(options: TrainingOptions) -> int:
    return options.seed if options.data_seed is None else options.data_seed


def _mixer(options: TrainingOptions, data: ImageData) -> Mixer:
    return Mixer(len(data.classes), options.label_smoothing, options.mixup, options.cutmix, _data_seed(options))


def _loaders(
    options: TrainingOptions, data: ImageData, student: StagedModel, fabric: Fabric
) -> tuple[TrainLoader, EvalLoader]:
    train = TrainLoader(
        data.train,
        image_size=student.image_size,
        batch_size=options.batch_size,
        accumulate=options.accumulate,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        data_seed=_data_seed(options),
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
