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

from crossdistill.data import ImageData
from crossdistill.distiller import Distiller
from crossdistill.errors import UserCaution, UserError
from crossdistill.methods import build_distiller, load_method, parse_hyperparameters
from crossdistill.models import save_model, stem_advice
from crossdistill.options import (
    DeviceOptions,
    OptimizationOptions,
    PairOptions,
    ReportingOptions,
    TrainingOptions,
    check_ranges,
)
from crossdistill.training.caching import check_cache_options, fill, open_cache
from crossdistill.training.devices import forget_peak_memory, make_fabric, over_processes
from crossdistill.training.ingredients import (
    build_models,
    check_labels,
    chosen_images,
    make_loaders,
    make_mixer,
    make_probe,
    open_run_data,
    warn_of_enlarging,
)
from crossdistill.training.log import RunLog
from crossdistill.training.memory_format import MemoryFormats, measure_memory_formats
from crossdistill.training.optimization import check_optimizer
from crossdistill.training.preflight import ask_about_validation
from crossdistill.training.run_folder import RunFolder
from crossdistill.training.state import seed_everything
from crossdistill.training.summary import print_summary, summarise
from crossdistill.training.trainer import OnEvaluation, Trainer


def distill(
    options: TrainingOptions,
    console: Console | None = None,
    given: Collection[str] | None = None,
    on_evaluation: OnEvaluation | None = None,
) -> dict[str, Any]:
    """Train a student as `options` say: what `crossdistill distill` and `crossdistill train` do.

    Everything that can be refused is refused before the run folder is made. With several devices each process calls
    this; the first one writes.

    Args:
        options: the teacher, the student, the method, the data and the recipe.
        console: where to report; default: the standard output.
        given: names of the options that a run that goes on must have been started with, where they are not free to
            change; default: those that are not at their defaults.
        on_evaluation: called after each evaluation with the steps taken, the steps of the run and the values; what it
            raises ends the run.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: a mistake in the options, the files or the pair, or a run that cannot go on.
        KeyboardInterrupt: stopped by SIGINT or SIGTERM, after a checkpoint was written.
    """
    folder = _folder(options)
    if options.resume:
        options = folder.merge_recipe(options, given)
    check_options(options)
    console = run_console(console)
    if options.resume and folder.finished:
        return _already_finished(folder, console)
    data = open_run_data(options.data, options)
    if data.skipped:
        console.print(f"skipped {data.skipped} images that cannot be decoded")
    check_labels(data, load_method(options.method.name))
    fabric = make_fabric(options.part(DeviceOptions))
    seed_everything(options.seed)
    student, teacher = build_models(options.part(PairOptions), data)
    if options.image_size is None:
        warn_of_enlarging(data, student, console)
    if options.stem_stride is None and (advice := stem_advice(student)):
        console.print(advice, soft_wrap=True)
    seed_everything(options.seed)
    distiller = build_distiller(options.method, student, teacher, train_size=len(data.train))
    _say_without_labels(data, distiller, options, console)
    return _train(fabric, distiller, data, options, console, on_evaluation)


def train(
    distiller: Distiller,
    data: ImageData | str,
    options: TrainingOptions,
    console: Console | None = None,
    on_evaluation: OnEvaluation | None = None,
) -> dict[str, Any]:
    """Train the student of a method that was built by hand: `crossdistill.train`.

    The same loop, run folder, checkpoints and checks as those of the command. A run that goes on (`resume`) must be
    given an equal distiller.

    Args:
        distiller: the method, with its student and its teacher.
        data: the data set, or what `--data` takes.
        options: the recipe; what they say of the models, the method and the name of the data is not read.
        console: where to report; default: the standard output.
        on_evaluation: as in `distill`.

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
    console = run_console(console)
    if options.resume and folder.finished:
        return _already_finished(folder, console)
    data = open_run_data(data, options) if isinstance(data, str) else chosen_images(data, options)
    return _train(make_fabric(options.part(DeviceOptions)), distiller, data, options, console, on_evaluation)


def _train(
    fabric: Fabric,
    distiller: Distiller,
    data: ImageData,
    options: TrainingOptions,
    console: Console,
    on_evaluation: OnEvaluation | None,
) -> dict[str, Any]:
    """What both have in common: everything behind the construction of the models and the method."""
    folder, student, teacher = RunFolder(options.output), distiller.student, distiller.teacher
    devices, optimization, reporting = (
        options.part(DeviceOptions),
        options.part(OptimizationOptions),
        options.part(ReportingOptions),
    )
    check_labels(data, type(distiller))
    _check_single_images(optimization, distiller, fabric.world_size)
    fabric.launch()
    forget_peak_memory(fabric.device)
    train_loader, validation = make_loaders(options, data, student, fabric)
    mixer = make_mixer(options, data)
    cache = open_cache(options, [distiller], data, train_loader, mixer, fabric)
    distiller.to(fabric.device)
    if devices.sync_batch_norm and fabric.world_size > 1:
        _synchronise_batch_norms(distiller, fabric.device)
    teacher_logits, teacher_top1 = None, None
    if teacher is not None:
        teacher_logits = ask_about_validation(
            fabric,
            [distiller],
            data,
            validation,
            options.part(PairOptions),
            console,
            known=cache.validation_logits() if cache is not None else None,
            judge=not options.resume,
        )
    answers = None
    if teacher_logits is not None and teacher_logits.shape[1] == student.num_classes:
        answers = teacher_logits.argmax(dim=1)
    if answers is not None and data.labelled:
        teacher_top1 = 100 * (answers.cpu() == data.validation.labels).float().mean().item()
    if cache is not None and options.teacher_cache_fill:
        fill(cache, options, fabric, console, teacher_logits)

    if options.channels_last == "auto":
        options = _choose_memory_format(options, distiller, fabric, console)
    trainer = Trainer(
        fabric,
        distiller,
        train_loader,
        validation,
        mixer,
        folder,
        optimization=optimization,
        devices=options.part(DeviceOptions),
        reporting=reporting,
        teacher_answers=answers,
        cached_outputs=cache.answers() if cache is not None else None,
        on_evaluation=on_evaluation,
        probe=make_probe(options, student, fabric),
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
        logits = trainer.ask_again()
    logits = over_processes(fabric, logits, "sum")
    values = {name: over_processes(fabric, value, "sum") for name, value in trainer.values.items()}
    if trainer.probe is not None:
        values["knn_top1"] = trainer.probe.right
    summary = summarise(options, data, trainer, teacher_top1)
    if fabric.global_rank == 0:
        classes = data.classes
        if student.num_classes and not classes and teacher is not None:
            classes = teacher.card.classes or []
        save_model(trainer.result, folder.student, classes=classes or None)
        folder.write_predictions(data, student=logits, teacher=teacher_logits, values=values, classes=classes)
        folder.write_summary(summary)
        print_summary(console, summary, folder)
    fabric.barrier()
    return summary


def _say_without_labels(data: ImageData, distiller: Distiller, options: TrainingOptions, console: Console) -> None:
    """What a user may not expect of images without labels."""
    if data.labelled:
        return
    student = distiller.student
    held_out = "" if options.held_out else " (--held_out)"
    console.print(
        f"{data.name}: images without labels, {len(data.train):,} to train on and {len(data.validation):,} held "
        f"out{held_out}; the student "
        + (f"has the teacher's {student.num_classes} classes" if student.num_classes else "has no head"),
        soft_wrap=True,
    )


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


def _first_process() -> bool:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0


def run_console(console: Console | None) -> Console:
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


def check_options(options: TrainingOptions) -> None:
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
    check_cache_options(options)
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
