"""A teacher and a student side by side: their stages, and what each method costs for the pair."""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Group
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from crossdistill.analysis.timing import seconds_per_step
from crossdistill.distiller import Distiller
from crossdistill.errors import UserCaution, UserError
from crossdistill.methods import build_distiller, load_method
from crossdistill.models import stem_advice
from crossdistill.options import MethodOptions
from crossdistill.staged import Stage, StagedModel
from crossdistill.staged.card import pretrained_config
from crossdistill.staged.modes import eval_mode

# Batch norms cannot train on a single image.
_BATCH = 2
# Methods with a memory bank ask for the number of training images, which no cost reported here depends on.
_TRAIN_SIZE = 50_000


@dataclass
class ModelSummary:
    """One model of the pair.

    Attributes:
        name: as it was built.
        parameters: number of parameters.
        macs: multiply-accumulate operations of one image's forward pass.
        num_classes: 0 without a head.
        image_size: (height, width) in pixels.
        segments_refusal: why the model does not run in segments; empty where it does.
        licence: of timm's weights for this name; "not told" where timm has weights and does not know; empty for weights
            that are not timm's, and for models that it has none for.
    """

    name: str
    parameters: int
    macs: int
    num_classes: int
    image_size: tuple[int, int]
    segments_refusal: str
    licence: str = ""


@dataclass(frozen=True)
class Timing:
    """What the times of training steps are measured with.

    Attributes:
        batch_size: images of a step.
        train_images: images of an epoch.
    """

    batch_size: int = 32
    train_images: int = 50_000


@dataclass
class MethodCost:
    """What a method costs for the pair, or why it does not fit.

    Attributes:
        name: the method.
        extra_parameters: trainable parameters beside the student's.
        macs: multiply-accumulate operations of one image's training forward (student, teacher and extra parts).
        seconds: of one training step on this machine; None where it was not measured.
        refusal: why the method does not fit the pair; empty where it does.
    """

    name: str
    extra_parameters: int = 0
    macs: int = 0
    seconds: float | None = None
    refusal: str = ""


@dataclass
class Inspection:
    """What `crossdistill inspect` shows.

    Attributes:
        teacher: the teacher's summary.
        student: the student's summary.
        pairs: stages that stand for the same depth; None where one model has fewer.
        methods: in the order asked for.
        timing: what the methods' times were measured with; None where they were not.
        device: where they were measured.
        advice: which stem stride would suit the student's image size better; empty where the one in use does.
    """

    teacher: ModelSummary
    student: ModelSummary
    pairs: list[tuple[Stage | None, Stage | None]]
    methods: list[MethodCost]
    timing: Timing | None = None
    device: str = ""
    advice: str = ""

    def __rich__(self) -> Group:
        """Three tables, for `rich.print`: the models, their stages, the methods; and the advice behind the stages."""
        advice = [self.advice] if self.advice else []
        return Group(self._models_table(), self._stages_table(), *advice, self._methods_table())

    def _models_table(self) -> Table:
        table = Table(title="models", title_justify="left")
        for column in ("", "teacher", "student"):
            table.add_column(column, overflow="fold")
        pair = (self.teacher, self.student)
        table.add_row("name", *(model.name for model in pair))
        table.add_row("parameters", *(short_count(model.parameters) for model in pair))
        table.add_row("MACs per image", *(short_count(model.macs) for model in pair))
        table.add_row("image size", *(_grid(model.image_size) for model in pair))
        table.add_row("classes", *(str(model.num_classes or "no head") for model in pair))
        table.add_row(
            "runs in segments",
            *(f"no: {model.segments_refusal}" if model.segments_refusal else "yes" for model in pair),
        )
        if any(model.licence for model in pair):
            table.add_row("licence of timm's weights", *(model.licence or "-" for model in pair))
        return table

    def _stages_table(self) -> Table:
        table = Table(
            title="stages, matched by depth",
            title_justify="left",
            caption="features: channels@grid, +1 for a class or register token; mixing: what mixes positions",
            caption_justify="left",
        )
        for column in ("teacher", "features", "mixing", "student", "features", "mixing"):
            table.add_column(column, overflow="fold")
        for teacher, student in self.pairs:
            table.add_row(*_stage_cells(teacher), *_stage_cells(student))
        return table

    def _methods_table(self) -> Table:
        caption = "MACs: one training forward (student, teacher, extra parts) per image, backward not counted"
        columns = ["method", "extra parameters", "MACs", "fits"]
        if self.timing is not None:
            columns[3:3] = ["step", "epoch"]
            caption += (
                f"\nstep: training on {self.timing.batch_size} images, reading them not counted; epoch: the same for "
                f"{self.timing.train_images:,} images (--train_images); on this machine: {self.device}"
            )
        table = Table(title="methods", title_justify="left", caption=caption, caption_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold")
        for method in self.methods:
            if method.refusal:
                table.add_row(method.name, *["-"] * (len(columns) - 2), f"no: {method.refusal}")
            else:
                table.add_row(method.name, *self._costs(method), "yes")
        return table

    def _costs(self, method: MethodCost) -> list[str]:
        costs = [short_count(method.extra_parameters), short_count(method.macs)]
        if self.timing is not None and method.seconds is not None:
            epoch = method.seconds * self.timing.train_images / self.timing.batch_size
            costs += [duration(method.seconds), duration(epoch)]
        return costs


def inspect_pair(
    teacher: StagedModel, student: StagedModel, methods: Sequence[str], timing: Timing | None = None
) -> Inspection:
    """Compare two models and price methods, with their default hyper-parameters, for the pair.

    The models keep their weights, buffers and mode; every method runs on a copy of the student. The teacher is frozen
    afterwards, as in any distillation.

    Args:
        teacher: the model to learn from.
        student: the model to train.
        methods: names or dotted paths.
        timing: measure the time of a training step too; it takes two of each method.

    Raises:
        UserError: there is no such method, the student has no head, or the device has too little memory for a step.
    """
    if student.num_classes == 0:
        raise UserError(f"the student {student.name} has no head: give --num_classes")
    for name in methods:
        load_method(name)
    return Inspection(
        teacher=summarise_model(teacher),
        student=summarise_model(student),
        pairs=pair_stages(teacher.stages, student.stages),
        methods=[price(MethodOptions(name), teacher, student, timing) for name in methods],
        timing=timing,
        device=_device_in_words(next(student.parameters()).device),
        advice=stem_advice(student),
    )


def why_not(method: MethodOptions, teacher: StagedModel, student: StagedModel) -> str:
    """Why a method does not fit a pair; empty where it does.

    Args:
        method: its name and hyper-parameters.
        teacher: is frozen afterwards, as in any distillation.
        student: stays as it is.
    """
    with warnings.catch_warnings():
        # What a method says of a pair that it takes is told when the pair is trained.
        warnings.simplefilter("ignore", UserCaution)
        built = _build(method, teacher, student)
    return built if isinstance(built, str) else ""


def _build(method: MethodOptions, teacher: StagedModel, student: StagedModel) -> Distiller | str:
    """The method on a copy of the student, or why it does not fit."""
    with torch.random.fork_rng(devices=[]):
        try:
            # A method that reads nothing of a teacher is trained without one.
            needed = teacher if load_method(method.name).needs.teacher else None
            return build_distiller(method, copy.deepcopy(student), needed, train_size=_TRAIN_SIZE)
        except UserError as error:
            return str(error)


def price(
    method: MethodOptions, teacher: StagedModel, student: StagedModel, timing: Timing | None = None
) -> MethodCost:
    """What a method costs for a pair.

    Args:
        method: its name and hyper-parameters.
        teacher: is frozen afterwards, as in any distillation.
        student: stays as it is.
        timing: measure the time of a training step too.

    Raises:
        UserError: the device has too little memory for a training step.
    """
    distiller = _build(method, teacher, student)
    if isinstance(distiller, str):
        return MethodCost(method.name, refusal=distiller)
    with torch.random.fork_rng(devices=[]):
        images = _images(student)
        labels = torch.arange(_BATCH, device=images.device) % student.num_classes
        distiller.to(images.device).train()
        distiller.prepare([images])
        macs = _macs(lambda: distiller(images, labels, indices=torch.arange(_BATCH, device=images.device)))
        seconds = _seconds(distiller, timing.batch_size) if timing is not None else None
    return MethodCost(method.name, distiller.extra_parameters(), macs, seconds)


def _seconds(distiller: Distiller, batch_size: int) -> float:
    try:
        return seconds_per_step(distiller, batch_size)
    except torch.OutOfMemoryError as error:
        name = type(distiller).__name__
        raise UserError(f"the device has too little memory for a step of {name}: lower --batch_size") from error


def pair_stages(teacher: Sequence[Stage], student: Sequence[Stage]) -> list[tuple[Stage | None, Stage | None]]:
    """Stages of the same depth, counted from the end, where both models are closest to the answer."""
    depth = max(len(teacher), len(student))

    def padded(stages: Sequence[Stage]) -> list[Stage | None]:
        return [None] * (depth - len(stages)) + list(stages)

    return list(zip(padded(teacher), padded(student), strict=True))


def summarise_model(model: StagedModel) -> ModelSummary:
    """Its size, cost and licence; the mode that it is in stays."""
    images = _images(model)
    with eval_mode(model):
        macs = _macs(lambda: model(images))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return ModelSummary(
        model.name,
        parameters,
        macs,
        model.num_classes,
        model.image_size,
        "" if model.exact_segments else model.segments_refusal,
        _licence(model),
    )


def _licence(model: StagedModel) -> str:
    """What timm says of the weights that it has for a model, whether they were loaded or not."""
    config = pretrained_config(model.model)
    sources = ("url", "file", "hf_hub_id")
    if model.card.weights not in ("none", "pretrained") or not any(config.get(source) for source in sources):
        return ""
    return config.get("license") or "not told"


def _images(model: StagedModel) -> torch.Tensor:
    """A grey batch of the model's size: what is counted depends on shapes alone."""
    return torch.full((_BATCH, 3, *model.image_size), 0.5, device=next(model.parameters()).device)


def _macs(run: Callable[[], Any]) -> int:
    """Multiply-accumulate operations per image; matrix products and convolutions, which is nearly all there is."""
    with FlopCounterMode(display=False) as counter:
        run()
    # The counter counts a multiply-accumulate as two operations.
    return counter.get_total_flops() // (2 * _BATCH)


def _stage_cells(stage: Stage | None) -> tuple[str, str, str]:
    if stage is None:
        return "-", "-", "-"
    tokens = f" +{stage.prefix_tokens}" if stage.prefix_tokens else ""
    return stage.path, f"{stage.channels}@{_grid(stage.size)}{tokens}", ", ".join(stage.mixing) or "-"


def _grid(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _device_in_words(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu (threads: {torch.get_num_threads()})" if device.type == "cpu" else device.type


def duration(seconds: float) -> str:
    """A time in the unit that suits it: `1.5 min`."""
    for unit, size in (("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{1000 * seconds:.0f} ms"


def short_count(number: int) -> str:
    """A count in three digits: `22.05 M`."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)
