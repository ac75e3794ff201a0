"""Each promise of the contract finds the method that breaks it."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import check_range
from crossdistill.methods.fbt.fbt import FBT
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel
from crossdistill.staged.attention import AttentionTap
from crossdistill.testing import MethodContract

PAIR = "vit->cnn"


class Matching(Distiller):
    """Keeps every promise.

    Args:
        student: the model that is trained.
        teacher: the model that is learnt from.
        weight: of the matching term.
    """

    needs = Needs(teacher={"pooled"}, student={"pooled"})

    def __init__(self, student: StagedModel, teacher: StagedModel, weight: float = 1.0) -> None:
        super().__init__(student, teacher)
        self.weight = weight
        self.projection = nn.Linear(student.pooled_size, teacher.pooled_size)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"matching": self.weight * F.mse_loss(self.projection(student.pooled), teacher.pooled)}


class NotScalar(Matching):
    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"matching": (self.projection(student.pooled) - teacher.pooled).square().mean(dim=1)}


class NotFinite(Matching):
    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"matching": super().terms(student, teacher, batch)["matching"] / 0}


class PartLeftOut(Matching):
    def __init__(self, student: StagedModel, teacher: StagedModel, weight: float = 1.0) -> None:
        super().__init__(student, teacher, weight)
        self.unused = nn.Linear(2, 2)


class TeacherInTraining(Matching):
    def run_models(self, batch: Batch, teacher_outputs: Outputs | None) -> tuple[Outputs, Outputs]:
        assert self.teacher is not None
        self.teacher.train()
        return super().run_models(batch, teacher_outputs)


class TeacherTwice(Matching):
    def __init__(self, student: StagedModel, teacher: StagedModel, weight: float = 1.0) -> None:
        super().__init__(student, teacher, weight)
        self.borrowed = teacher.model.norm


class OtherField(Matching):
    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return super().terms(student, teacher, batch) | {"final": student.final.square().mean()}


class OtherStage(Matching):
    needs = Needs(teacher={"pooled", "features.3"}, student={"pooled"})

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        stage = teacher.features[1].mean() * self.projection.bias.sum()
        return super().terms(student, teacher, batch) | {"stage": stage}


class IfThere(Matching):
    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        more = {} if teacher.logits is None else {"logits": teacher.logits.mean() * self.projection.bias.sum()}
        return super().terms(student, teacher, batch) | more


class Segments(FBT):
    def declare(self, **needs: Any) -> None:
        super().declare(**{role: words - {"segments"} for role, words in needs.items()})


class Tapped(Matching):
    def __init__(self, student: StagedModel, teacher: StagedModel, weight: float = 1.0) -> None:
        super().__init__(student, teacher, weight)
        self.tap = AttentionTap(teacher, "Tapped")

    def run_models(self, batch: Batch, teacher_outputs: Outputs | None) -> tuple[Outputs, Outputs]:
        return self.student(batch.images), self.tap(batch.images)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        attention = teacher.attention.queries.mean() * self.projection.bias.sum()
        return super().terms(student, teacher, batch) | {"attention": attention}


class NeedsLabelsSilently(Matching):
    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        right = F.one_hot(batch.labels if batch.labels.ndim == 1 else batch.labels.argmax(dim=1), 3)
        return super().terms(student, teacher, batch) | {"right": (student.logits * right).mean()}


class HardLabelsOnly(Matching):
    def label_terms(self, student: Outputs, labels: Tensor) -> dict[str, Tensor]:
        return {"labels": F.nll_loss(student.logits.log_softmax(dim=1), labels)}


class WholeBatches(Matching):
    def __init__(self, student: StagedModel, teacher: StagedModel, weight: float = 1.0) -> None:
        super().__init__(student, teacher, weight)
        self.norm = nn.BatchNorm1d(teacher.pooled_size)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"matching": F.mse_loss(self.norm(self.projection(student.pooled)), teacher.pooled)}


class Unseeded(Matching):
    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        noise = torch.rand((), generator=torch.Generator().manual_seed(id(self)))
        return {"matching": noise * super().terms(student, teacher, batch)["matching"]}


class StateOutsideOfBuffers(Matching):
    steps = 0

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        self.steps += 1
        return {"matching": self.steps * super().terms(student, teacher, batch)["matching"]}


class OneSize(Matching):
    def __init__(self, student: StagedModel, teacher: StagedModel, weight: float = 1.0) -> None:
        super().__init__(student, teacher, weight)
        self.positions = nn.Linear(16, 16)

    needs = Needs(teacher={"pooled", "final"}, student={"pooled"})

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        places = self.positions(teacher.final.flatten(2)).square().mean()
        return super().terms(student, teacher, batch) | {"places": places}


class SecretCritic(Matching):
    def __init__(self, student: StagedModel, teacher: StagedModel, weight: float = 1.0) -> None:
        super().__init__(student, teacher, weight)
        self.critic = nn.Bilinear(4, 4, 1)


class MiscountedParts(Matching):
    def extra_parameters(self) -> int:
        return 0


class PartInStudent(Matching):
    def __init__(self, student: StagedModel, teacher: StagedModel, weight: float = 1.0) -> None:
        super().__init__(student, teacher, weight)
        student.model.projection = self.projection


class Rounded(Matching):
    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        projected = self.projection(student.pooled)
        return {"matching": (1e3 * projected).sum() - 1e3 * projected.sum()}


class Recompiled(Matching):
    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        share = 2.0 if self.progress.item() > 0.3 else 1.0
        return {"matching": share * super().terms(student, teacher, batch)["matching"]}


class Untyped(Matching):
    def __init__(self, student, teacher, weight=1.0) -> None:  # type: ignore[no-untyped-def]
        super().__init__(student, teacher, weight)


class Untold(Matching):
    """Says nothing of its weight."""


class RangeOfNothing(Matching):
    ranges: ClassVar = {"wieght": Range(0, 2)}


class RangeWithoutDefault(Matching):
    ranges: ClassVar = {"weight": Range(2, 4)}


class RangeThatIsRefused(Matching):
    ranges: ClassVar = {"weight": Range(0, 2)}

    def __init__(self, student: StagedModel, teacher: StagedModel, weight: float = 1.0) -> None:
        super().__init__(student, teacher, weight)
        check_range("matching", above=0, weight=weight)


class MadeFor(MethodContract):
    def __init__(self, method: type[Distiller], **attributes: Any) -> None:
        self.method = method
        self.__dict__.update(attributes)


def saved(contract: MethodContract) -> None:
    with tempfile.TemporaryDirectory() as folder:
        contract.test_saved_student_has_the_tensors_of_the_plain_model(Path(folder))


PROMISES: dict[str, Callable[[MethodContract], None]] = {
    "terms": lambda c: c.test_terms_are_named_finite_scalars_and_reach_all_that_is_trained(PAIR),
    "teacher": lambda c: c.test_teacher_stays_in_eval_mode_and_unchanged(PAIR),
    "declared": lambda c: c.test_reads_only_what_it_declares(PAIR),
    "labels": lambda c: c.test_images_without_labels_are_taken_or_refused_as_declared(),
    "one image": lambda c: c.test_a_batch_of_one(),
    "soft labels": lambda c: c.test_soft_labels(),
    "sizes": lambda c: c.test_other_image_sizes_and_images_that_are_not_square(PAIR, (48, 48)),
    "state": lambda c: c.test_same_seed_same_loss_and_state_dict_round_trip(PAIR),
    "parameters": lambda c: c.test_extra_parameters_are_what_the_student_does_not_own(),
    "saved": saved,
    "bf16 loss": lambda c: c.test_bf16_autocast_is_near_float32(PAIR),
    "bf16 steps": lambda c: c.test_steps_in_bf16_leave_finite_gradients(PAIR),
    "compiled": lambda c: c.test_compiled_steps_give_the_same_loss_and_are_compiled_once(PAIR),
    "texts": lambda c: c.test_hyperparameters_have_a_type_and_a_text(),
    "ranges": lambda c: c.test_ranges_are_of_hyperparameters_and_hold_the_defaults(),
    "refusals": lambda c: c.test_pairs_that_do_not_fit_are_refused_in_one_line(),
}
BROKEN: list[tuple[type[Distiller], str]] = [
    (NotScalar, "terms"),
    (NotFinite, "terms"),
    (PartLeftOut, "terms"),
    (TeacherInTraining, "teacher"),
    (TeacherTwice, "state"),
    (OtherField, "declared"),
    (OtherStage, "declared"),
    (IfThere, "declared"),
    (Segments, "declared"),
    (Tapped, "declared"),
    (NeedsLabelsSilently, "labels"),
    (HardLabelsOnly, "soft labels"),
    (WholeBatches, "one image"),
    (Unseeded, "state"),
    (StateOutsideOfBuffers, "state"),
    (OneSize, "sizes"),
    (SecretCritic, "bf16 steps"),
    (MiscountedParts, "parameters"),
    (PartInStudent, "saved"),
    (Rounded, "bf16 loss"),
    (Recompiled, "compiled"),
    (Untyped, "texts"),
    (Untold, "texts"),
    (RangeOfNothing, "ranges"),
    (RangeWithoutDefault, "ranges"),
    (RangeThatIsRefused, "ranges"),
]


# Compiling takes its time.
MARKED = {"compiled": pytest.mark.slow}


@pytest.mark.parametrize("promise", [pytest.param(name, marks=MARKED.get(name, ())) for name in PROMISES])
def test_a_method_that_keeps_all_promises(promise: str) -> None:
    PROMISES[promise](MadeFor(Matching))


@pytest.mark.parametrize(
    ("method", "promise"),
    [pytest.param(method, promise, marks=MARKED.get(promise, ()), id=method.__name__) for method, promise in BROKEN],
)
def test_a_broken_promise_is_found(method: type[Distiller], promise: str) -> None:
    with pytest.raises((AssertionError, RuntimeError, ValueError)):
        PROMISES[promise](MadeFor(method))


def test_a_pair_that_is_not_refused_as_told_is_found() -> None:
    for refuses in ({PAIR: "never said"}, {"mlp->cnn": "no attention"}):
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            PROMISES["refusals"](MadeFor(Matching, refuses=refuses))
