"""The task of finding objects: what a run of it is made of, and by what it is judged."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from rich.console import Console
from torch import Tensor

from crossdistill.data import Batch
from crossdistill.detection.augment import check_augmentation
from crossdistill.detection.boxes import Detections
from crossdistill.detection.build import (
    build_detector,
    build_torchvision_detector,
    is_torchvision_detector,
    read_card,
)
from crossdistill.detection.detector import StagedDetector
from crossdistill.detection.evaluation import average_precision, evaluate_boxes
from crossdistill.detection.loaders import SceneEvalLoader, SceneTrainLoader
from crossdistill.detection.predictions import write_detections
from crossdistill.detection.sets import hold_out, open_detection_data
from crossdistill.detection.sources import DetectionData, fingerprint
from crossdistill.errors import UserError
from crossdistill.models import build_model
from crossdistill.options import DataOptions, TrainingOptions, height_and_width
from crossdistill.staged import Outputs, StagedModel

_EVALUATION_BATCH = 16
# Average precision below this, in percent, is that of a detector which has learnt nothing.
_NOTHING_LEARNT = 1.0


class Place(Protocol):
    """Where a process runs: what is needed of Fabric."""

    @property
    def device(self) -> torch.device: ...
    @property
    def global_rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...


class Detection:
    """Object detection, as `crossdistill.training.task.Task` asks."""

    def check(self, options: TrainingOptions) -> None:
        """Refuse options of classification, and a missing package, before anything is loaded.

        Raises:
            UserError: naming the option or the package.
        """
        check_augmentation(options)
        if options.teacher_cache:
            raise UserError("--teacher_cache is for classification: leave it out with --task detection")
        if options.compile:
            raise UserError("--compile true: torchvision's heads pick boxes by what they see; leave it out")
        if options.probe_data:
            raise UserError("--probe_data is for classification: leave it out with --task detection")
        if options.teacher_classes:
            raise UserError("--teacher_classes is for classification: leave it out with --task detection")
        average_precision()

    def open_data(self, options: TrainingOptions) -> DetectionData:
        data = open_detection_data(options.data, boxes=options.boxes, on_bad_image=options.on_bad_image)
        return self.choose(data, options)

    def choose(self, data: DetectionData, options: TrainingOptions) -> DetectionData:
        return hold_out(data, options.held_out) if options.held_out else data

    def fingerprint(self, data: DetectionData) -> str:
        return f"{fingerprint(data.train)}/{fingerprint(data.validation)}"

    def build_models(self, options: TrainingOptions, data: DetectionData) -> tuple[StagedDetector, StagedModel | None]:
        student = build_detector(
            options.student,
            weights=options.student_weights,
            classes=data.classes,
            head=options.detector,
            pyramid_channels=options.pyramid_channels,
            image_size=_batch_size(options, data),
            stage_ends=options.student_stages,
            stem_stride=options.stem_stride,
            score_threshold=options.score_threshold,
        )
        return student, self.build_teacher(options, data)

    def build_teacher(self, options: TrainingOptions, data: DetectionData) -> StagedModel | None:
        """A detector of ours or torchvision's, or any model, whose stages then teach the levels of the student."""
        name, weights = options.teacher.name, options.teacher_weights
        if not (name or weights not in ("none", "pretrained")):
            return None
        size = height_and_width(options.teacher_image_size, "teacher_image_size")
        if is_torchvision_detector(name):
            size = size or _batch_size(options, data)
            if size is None:
                raise UserError(f"{name} has no image size of its own: give --image_size or --teacher_image_size")
            return build_torchvision_detector(options.teacher, weights=weights, classes=data.classes, image_size=size)
        held = read_card(weights)
        if held is not None and held[1].detector is not None:
            return build_detector(
                options.teacher,
                weights=weights,
                classes=data.classes,
                head=held[1].detector["head"],
                pyramid_channels=held[1].detector["pyramid_channels"],
                image_size=size,
                score_threshold=options.score_threshold,
                role="teacher",
            )
        return build_model(
            options.teacher,
            weights=weights,
            num_classes=0,
            image_size=size,
            stage_ends=options.teacher_stages,
            role="teacher",
            new_head=weights not in ("none", "pretrained"),
        )

    def advise(self, options: TrainingOptions, data: DetectionData, student: StagedModel, console: Console) -> None:
        if data.faults:
            more = f", and {len(data.faults) - 1} more" if len(data.faults) > 1 else ""
            console.print(f"left out: {data.faults[0]}{more}", soft_wrap=True)

    def make_loaders(
        self, options: TrainingOptions, data: DetectionData, student: StagedModel, fabric: Place
    ) -> tuple[SceneTrainLoader, SceneEvalLoader]:
        train = SceneTrainLoader(
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
        validation = SceneEvalLoader(
            data.validation,
            image_size=student.image_size,
            batch_size=_EVALUATION_BATCH,
            device=fabric.device,
            workers=options.workers,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        return train, validation

    def make_judge(
        self,
        options: TrainingOptions,
        data: DetectionData,
        student: StagedModel,
        validation: SceneEvalLoader,
        fabric: Place,
    ) -> "BoxJudge":
        return BoxJudge(data, validation)


class BoxJudge:
    """Judges by average precision, as `crossdistill.training.task.Judge` asks.

    Args:
        data: the data set.
        validation: its validation batches, of this process.
    """

    metric = "ap"

    def __init__(self, data: DetectionData, validation: SceneEvalLoader) -> None:
        self.data = data
        self.validation = validation
        self.teacher_value: float | None = None
        self.teacher_logits: Tensor | None = None
        self._student: dict[int, Detections] | None = None
        self._teacher: dict[int, Detections] | None = None

    def ask_teacher(
        self, distiller: Any, options: TrainingOptions, console: Console, *, known: Tensor | None, check: bool
    ) -> None:
        """Average precision of a teacher that finds the classes of the data; others are not judged.

        Raises:
            UserError: it has no weights, or finds nothing, unless `allow_weak_teacher` is true.
        """
        teacher = distiller.teacher

        def object_to(line: str) -> None:
            if check and not options.allow_weak_teacher:
                raise UserError(f"{line}, or insist with --allow_weak_teacher true")
            if check:
                console.print(f"warning: {line}", soft_wrap=True)

        if teacher.card.weights == "none":
            object_to(f"the teacher {teacher.name} has no weights: give --teacher_weights")
        if not isinstance(teacher, StagedDetector):
            return
        if teacher.classes != self.data.classes:
            if check:
                console.print(f"{teacher.name} finds other classes than those of the data: it is not judged")
            return
        self._teacher = {}
        result = evaluate_boxes(teacher, self.validation, self.data.validation, found=self._teacher)
        self.teacher_value = result["ap"]
        if self.teacher_value < _NOTHING_LEARNT and teacher.card.weights != "none":
            object_to(
                f"the teacher {teacher.name} finds next to nothing (AP {self.teacher_value:.2f} %): check its weights "
                "and image size"
            )

    def evaluate(
        self,
        model: StagedModel,
        further: Callable[[Batch, StagedModel, Outputs], dict[str, Tensor]] | None = None,
        *,
        keep: bool = False,
    ) -> dict[str, float]:
        assert isinstance(model, StagedDetector)
        found: dict[int, Detections] = {}
        result = evaluate_boxes(model, self.validation, self.data.validation, further=further, found=found)
        self._student = found if keep else None
        return result

    def complete(
        self, model: StagedModel, further: Callable[[Batch, StagedModel, Outputs], dict[str, Tensor]] | None = None
    ) -> None:
        if self._student is None:
            # Killed after the last evaluation, whose numbers are in the checkpoint.
            self.evaluate(model, further, keep=True)
        assert self._student is not None
        self._student = _of_all_processes(self._student)
        self._teacher = _of_all_processes(self._teacher) if self._teacher is not None else None

    def write_predictions(self, folder: Any, classes: list[str]) -> None:
        assert self._student is not None
        write_detections(folder.detections, self.data, self._student, self._teacher)


def _batch_size(options: TrainingOptions, data: DetectionData) -> tuple[int, int] | None:
    """Height and width of the batches: asked for, the data's; None: the student's own."""
    asked_for = height_and_width(options.image_size, "image_size")
    if asked_for is not None or "img_size" in options.student.kwargs or data.train.side is None:
        return asked_for
    return data.train.side, data.train.side


def _of_all_processes(found: dict[int, Detections]) -> dict[int, Detections]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return found
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, found)
    return {index: boxes for part in parts for index, boxes in part.items()}
