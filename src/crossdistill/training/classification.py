"""The task of telling classes apart."""

from collections.abc import Callable

from lightning.fabric import Fabric
from rich.console import Console
from torch import Tensor

from crossdistill.data import Batch, EvalLoader, ImageData, TrainLoader, fingerprint
from crossdistill.distiller import Distiller
from crossdistill.evaluation import Probe, empty_logits, evaluate
from crossdistill.models import stem_advice
from crossdistill.options import PairOptions, TrainingOptions
from crossdistill.staged import Outputs, StagedModel
from crossdistill.training.devices import over_processes
from crossdistill.training.ingredients import (
    build_models,
    build_teacher,
    chosen_images,
    make_loaders,
    make_probe,
    open_run_data,
    warn_of_enlarging,
)
from crossdistill.training.preflight import ask_about_validation
from crossdistill.training.run_folder import RunFolder


class Classification:
    """Image classification, as `Task` asks."""

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

    def make_judge(
        self, options: TrainingOptions, data: ImageData, student: StagedModel, validation: EvalLoader, fabric: Fabric
    ) -> "AccuracyJudge":
        return AccuracyJudge(data, student, validation, fabric, make_probe(options, student, fabric))


class AccuracyJudge:
    """Judges by top-1 accuracy, or without labels by what the method measures, as `Judge` asks.

    Args:
        data: the data set.
        student: the model that is trained.
        validation: the set's validation batches, of this process.
        fabric: launched.
        probe: labelled images that tell what the student's representation is worth.
    """

    metric = "top1"

    def __init__(
        self, data: ImageData, student: StagedModel, validation: EvalLoader, fabric: Fabric, probe: Probe | None
    ) -> None:
        self.data = data
        self.validation = validation
        self.fabric = fabric
        self.probe = probe
        self.teacher_value: float | None = None
        self.teacher_logits: Tensor | None = None
        self._num_classes = student.num_classes
        self._teacher_answers: Tensor | None = None
        # (N, K) float32 logits, and (N,) of each further value; zeros where another process has the image.
        self._logits: Tensor | None = None
        self._values: dict[str, Tensor] = {}

    def ask_teacher(
        self, distiller: Distiller, options: TrainingOptions, console: Console, *, known: Tensor | None, check: bool
    ) -> None:
        said = self.teacher_logits = ask_about_validation(
            self.fabric,
            [distiller],
            self.data,
            self.validation,
            options.part(PairOptions),
            console,
            known=known,
            judge=check,
        )
        if said is None or said.shape[1] != self._num_classes:
            return
        answers = self._teacher_answers = said.argmax(dim=1)
        if self.data.labelled:
            self.teacher_value = 100 * (answers.cpu() == self.data.validation.labels).float().mean().item()

    def evaluate(
        self,
        model: StagedModel,
        further: Callable[[Batch, StagedModel, Outputs], dict[str, Tensor]] | None = None,
        *,
        keep: bool = False,
    ) -> dict[str, float]:
        self._logits, self._values = empty_logits(model, self.validation.size) if keep else None, {}
        result = evaluate(
            model,
            self.validation,
            teacher_answers=self._teacher_answers,
            further=further,
            logits=self._logits,
            values=self._values,
            labelled=self.validation.labelled,
        )
        if self.probe is not None:
            result["knn_top1"] = self.probe.top1(model)
        return result

    def complete(
        self, model: StagedModel, further: Callable[[Batch, StagedModel, Outputs], dict[str, Tensor]] | None = None
    ) -> None:
        if self._logits is None:
            # Killed after the last evaluation, whose numbers are in the checkpoint.
            self.evaluate(model, further, keep=True)
        assert self._logits is not None
        self._logits = over_processes(self.fabric, self._logits, "sum")
        self._values = {name: over_processes(self.fabric, value, "sum") for name, value in self._values.items()}
        if self.probe is not None:
            self._values["knn_top1"] = self.probe.right

    def write_predictions(self, folder: RunFolder, classes: list[str]) -> None:
        assert self._logits is not None
        folder.write_predictions(
            self.data, student=self._logits, teacher=self.teacher_logits, values=self._values, classes=classes
        )
