"""The teacher cache of a run: the run's conditions on one side, `crossdistill.cache` on the other."""

from collections.abc import Sequence

import torch
from lightning.fabric import Fabric
from rich.console import Console
from torch import Tensor

from crossdistill.cache import Form, Replay, Static, TeacherCache
from crossdistill.data import ImageData, Mixer, TrainLoader, fingerprint
from crossdistill.distiller import Distiller
from crossdistill.errors import UserError
from crossdistill.options import OptimizationOptions, TrainingOptions
from crossdistill.training.optimization import total_steps


def open_cache(
    options: TrainingOptions,
    distillers: Sequence[Distiller],
    data: ImageData,
    train: TrainLoader,
    mixer: Mixer,
    fabric: Fabric,
    *,
    fills: bool | None = None,
) -> TeacherCache | None:
    """The cache that the options name, checked against the run; None where they name none.

    Args:
        options: of the run.
        distillers: the methods that it serves, with one teacher.
        data: the data set.
        train: training batches of this process.
        mixer: label smoothing, mixup and CutMix.
        fabric: launched.
        fills: whether it may lack something now; default: as the options say.

    Raises:
        UserError: the cache is of other conditions or lacks something, a method cannot be served, or the options
            exclude each other.
    """
    check_cache_options(options)
    if not options.teacher_cache:
        return None
    cache = TeacherCache(
        options.teacher_cache,
        distillers,
        _stream(options, data, train, mixer, fabric),
        Form(options.teacher_cache_top_k, options.teacher_cache_dtype),
        {
            "number of training images": len(data.train),
            "fingerprint of the training images": fingerprint(data.train),
            "fingerprint of the validation images": fingerprint(data.validation),
            "image size of the batches": list(train.image_size),
            "--precision": options.precision,
            "--channels_last": options.channels_last,
        },
    )
    if not (options.teacher_cache_fill if fills is None else fills):
        cache.check_complete()
    return cache


def fill(
    cache: TeacherCache,
    options: TrainingOptions,
    fabric: Fabric,
    console: Console,
    validation_logits: Tensor | None,
) -> None:
    """Fill what is missing, in the precision and memory order of the run.

    Args:
        cache: from `open_cache`.
        options: of the run.
        fabric: launched.
        console: where to report.
        validation_logits: (N, K) float32, what the teacher says of all validation images, if it has a head.
    """
    cache.teacher.to(fabric.device)
    if options.channels_last == "true":
        cache.teacher.to(memory_format=torch.channels_last)
    cache.fill(console, validation_logits=validation_logits, autocast=fabric.autocast, rank=fabric.global_rank)
    fabric.barrier()


def check_cache_options(options: TrainingOptions) -> None:
    """Refuse options of a cache that say nothing, or that exclude others.

    Raises:
        UserError: naming the options.
    """
    if not options.teacher_cache:
        if options.teacher_cache_fill:
            raise UserError("--teacher_cache_fill true: name the folder with --teacher_cache")
        return
    if options.channels_last == "auto":
        raise UserError(
            "--channels_last auto takes what it finds faster in each run, and a teacher cache is of one memory order: "
            "give true or false"
        )
    if options.teacher_cache_mode == "static" and (options.mixup or options.cutmix):
        raise UserError(
            "--teacher_cache_mode static holds what the teacher says of single images, and --mixup and --cutmix show "
            "it mixed ones: use replay, or switch mixing off"
        )


def _stream(
    options: TrainingOptions, data: ImageData, train: TrainLoader, mixer: Mixer, fabric: Fabric
) -> Replay | Static:
    if options.teacher_cache_mode == "replay":
        steps = total_steps(options.part(OptimizationOptions), train.steps_per_epoch)
        return Replay(train, mixer, steps, channels_last=options.channels_last == "true")
    return Static(
        data.train,
        image_size=train.image_size,
        device=fabric.device,
        workers=options.workers,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
