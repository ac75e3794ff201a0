"""The task of telling classes apart."""

from collections.abc import Callable

from lightning.fabric import Fabric
from rich.console import Console
from torch import Tensor

from crossdistill.data import Batch, EvalLoader, ImageData, TrainLoader, fingerprint
from crossdistill.distiller import Distiller
from crossdistill.evaluation import empty_logits, evaluate, predict
from crossdistill.models import stem_advice
from crossdistill.options import PairOptions, TrainingOptions
from crossdistill.staged import Outputs, StagedModel
from crossdistill.training.devices import over_processes
from crossdistill.training.ingredients import (
    build_models,
    build_teacher,
    chosen_images,
    make_loaders,
    open_run_data,
    warn_of_enlarging,
)
from crossdistill.training.preflight import ask_about_validation
from crossdistill.training.run_folder import RunFolder


class Classification:
    """Image classification, as `Task` asks."""

    metric = "top1"

    def check(self, options: TrainingOptions) -> None:
        """Nothing is refused."""

    def open_data(self, options: TrainingOptions) -> ImageData:
        return open_run_data(options.data, options)

    def choose(self, data: ImageData, options: TrainingOptions) -> ImageData:
        return chosen_images(data, options)

    def fingerprint(self, data: ImageData) -> str:
        return f"{fingerprint(data.train)}/{fingerprint(data.validation)}"

    def build_models(self, options: TrainingOptions, data: ImageData) -> tuple[StagedModel, StagedModel | None]:
        return build_models(options.part(PairOptions), data)

    def build_teacher(self, options: TrainingOptions, data: ImageData) -> StagedModel | None:
        return build_teacher(options, data)

    def advise(self, options: TrainingOptions, data: ImageData, student: StagedModel, console: Console) -> None:
        if options.image_size is None:
            warn_of_enlarging(data, student, console)
        if options.stem_stride is None and (advice := stem_advice(student)):
            console.print(advice, soft_wrap=True)

    def make_loaders(
        self, options: TrainingOptions, data: ImageData, student: StagedModel, fabric: Fabric
    ) -> tuple[TrainLoader, EvalLoader]:
        return make_loaders(options, data, student, fabric)

    def make_judge(self, data: ImageData, validation: EvalLoader, fabric: Fabric) -> "AccuracyJudge":
        return AccuracyJudge(data, validation, fabric)


class AccuracyJudge:
    """Judges by top-1 accuracy, as `Judge` asks.

    Args:
        data: the data set.
        validation: its validation batches, of this process.
        fabric: launched.
    """

    metric = Classification.metric

    def __init__(self, data: ImageData, validation: EvalLoader, fabric: Fabric) -> None:
        self.data = data
        self.validation = validation
        self.fabric = fabric
        self.teacher_value: float | None = None
        self.teacher_logits: Tensor | None = None
        self._teacher_answers: Tensor | None = None
        self._logits: Tensor | None = None

    def ask_teacher(
        self, distiller: Distiller, options: TrainingOptions, console: Console, *, known: Tensor | None, check: bool
    ) -> None:
        self.teacher_logits = ask_about_validation(
            self.fabric,
            [distiller],
            self.data,
            self.validation,
            options.part(PairOptions),
            console,
            known=known,
            judge=check,
        )
        if self.teacher_logits is not None:
            answers = self._teacher_answers = self.teacher_logits.argmax(dim=1)
            self.teacher_value = 100 * (answers.cpu() == self.data.validation.labels).float().mean().item()

    def evaluate(
        self,
        model: StagedModel,
        further: Callable[[Batch, StagedModel, Outputs], dict[str, Tensor]] | None = None,
        *,
        keep: bool = False,
    ) -> dict[str, float]:
        logits = empty_logits(model, self.validation.size) if keep else None
        result = evaluate(model, self.validation, teacher_answers=self._teacher_answers, further=further, logits=logits)
        self._logits = logits
        return result

    def complete(self, model: StagedModel) -> None:
        if self._logits is None:
            # Killed after the last evaluation, whose numbers are in the checkpoint.
            self._logits = empty_logits(model, self.validation.size)
            predict(model.eval(), self.validation, self._logits)
        self._logits = over_processes(self.fabric, self._logits, "sum")

    def write_predictions(self, folder: RunFolder) -> None:
        assert self._logits is not None
        folder.write_predictions(self.data, student=self._logits, teacher=self.teacher_logits)
