"""The frame that every method fills: a student, a frozen teacher, and named, weighted loss terms."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.errors import UserError
from crossdistill.ranges import Choice, Range
from crossdistill.staged import Outputs, StagedModel


@dataclass(frozen=True)
class Needs:
    """What a method reads, as data: constructors, `inspect`, `methods` and the checks before training go by it.

    The words are the names of the fields of `Outputs`; "features.3" and "prefix.3" are those of one stage, counted from
    1. Beside them, "attention" is taken by an `AttentionTap`, "segments" says that the model runs stage by stage, and
    "views", of the teacher, that it is shown something else than the images of the batch.

    Args:
        teacher: what is read of the teacher; a method that reads nothing of it is trained without one.
        student: what is read of the student, beside what its label terms read.
        labels: whether there is no step without labels.
    """

    teacher: Set[str] = frozenset()
    student: Set[str] = frozenset()
    labels: bool = False


class Distiller(nn.Module):
    """Base of all methods. `forward(images, labels)` returns the loss terms; the loss is their sum.

    A method is a subclass that says what it reads (`needs`), owns its extra parts (projectors, prompts, memory banks)
    as submodules, parameters and buffers, so that they are trained, moved and saved with it, and gives its loss terms
    from the outputs of both models (`terms`). One that shows the models something else than the images, or runs them
    in another way, overrides `run_models` too. Everything that is trained runs inside `forward`: that is the one call
    that the training loop makes, and what `DistributedDataParallel` and `torch.compile` wrap.

    The teacher is frozen, stays in eval mode whatever `train()` is told, and is in no state dict.

    Args:
        student: the model that is trained.
        teacher: the model that is learnt from; None only for methods that need nothing of it.
        label_weight: weight of the label terms.

    Raises:
        UserError: the method does not fit the pair (raised by the subclasses' constructors too, with the reason).
    """

    # What every pair is asked for; a constructor may `declare` more, which its pair or hyper-parameters ask for.
    needs: Needs = Needs()
    # Where `crossdistill tune` searches, by the names of the constructor's arguments. Of weights whose ratio alone
    # counts one stays as it is: the learning rate, which is searched for every method, has the common scale.
    ranges: ClassVar[Mapping[str, Range | Choice]] = {}
    # How finely the loop advances `progress`: with every optimiser step, or only when an epoch begins.
    progress_unit: Literal["iteration", "epoch"] = "iteration"
    # Optimiser steps of the student for one of the critic.
    critic_every: int = 1
    critic_learning_rate: float = 1e-4
    # Names of buffers whose value differs between processes; checkpoints hold them once per process.
    rank_local: tuple[str, ...] = ()

    progress: Tensor

    def __init__(self, student: StagedModel, teacher: StagedModel | None = None, label_weight: float = 1.0) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.label_weight = label_weight
        self.declare(teacher=self.needs.teacher, student=self.needs.student)
        if teacher is not None:
            teacher.requires_grad_(False)
            teacher.eval()
        # A tensor, because a Python float that changes every step would recompile a compiled step every time.
        self.register_buffer("progress", torch.zeros(()))
        # Adversarial methods put (real, fake), detached, here in `forward`; the loop feeds it to the critic.
        self.critic_batch: tuple[Tensor, Tensor] | None = None
        # In a tuple, so that the critic is no submodule: the student's optimiser must never see its parameters.
        self._critic: tuple[nn.Module | None] = (None,)
        self.register_state_dict_post_hook(_drop_teacher)
        self.register_load_state_dict_post_hook(_forgive_teacher)

    @property
    def critic(self) -> nn.Module | None:
        """The adversary, `critic(real, fake) -> loss`, or None. It has an optimiser of its own."""
        return self._critic[0]

    @critic.setter
    def critic(self, critic: nn.Module | None) -> None:
        self._critic = (critic,)

    def __setattr__(self, name: str, value: Any) -> None:
        # nn.Module would make any module a submodule before the property is asked.
        if name == "critic":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def declare(self, *, teacher: Set[str] = frozenset(), student: Set[str] = frozenset()) -> None:
        """Add to what this method needs of its models.

        Args:
            teacher: as in `Needs`.
            student: as in `Needs`.

        Raises:
            UserError: a model does not give it; there is no teacher.
        """
        self.needs = Needs(self.needs.teacher | teacher, self.needs.student | student, self.needs.labels)
        name = type(self).__name__
        if self.needs.teacher and self.teacher is None:
            raise UserError(f"{name} needs a teacher: give --teacher and --teacher_weights")
        for model, wanted in ((self.teacher, teacher), (self.student, student)):
            for need in sorted(wanted):
                assert model is not None
                model.require(need.partition(".")[0], name)

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        indices: Tensor | None = None,
        teacher_outputs: Outputs | None = None,
    ) -> dict[str, Tensor]:
        """Loss terms of one batch.

        Args:
            images: (B, 3, H, W) in [0, 1]; each model normalises for itself.
            labels: (B,) class indices or (B, K) soft labels; None where there are none: no label terms then.
            indices: (B,) positions of the images in the training set, for memory banks.
            teacher_outputs: what the teacher says of these images, where it is known already.

        Returns:
            Named scalar terms, already weighted.

        Raises:
            UserError: the method needs labels.
        """
        if labels is None and self.needs.labels:
            raise UserError(f"{type(self).__name__} learns from labels too, and these images have none")
        batch = Batch(images, labels, indices)  # type: ignore[arg-type]
        student, teacher = self.run_models(batch, teacher_outputs)
        terms = self.label_terms(student, labels) if labels is not None else {}
        weighted = {name: self.label_weight * term for name, term in terms.items()}
        own = self.terms(student, teacher, batch)
        return weighted | (own if labels is not None else _touch_everything(own, student))

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """The method's own loss terms: named scalars, weighted.

        Args:
            student: what the student says of the batch.
            teacher: what the teacher says of it, without gradient; nothing, where there is no teacher.
            batch: images, labels and indices, as `forward` was given them.
        """
        raise NotImplementedError

    def label_terms(self, student: Outputs, labels: Tensor) -> dict[str, Tensor]:
        """The loss of the student's own task, unweighted: the student knows it."""
        return self.student.label_terms(student, labels)

    def run_models(self, batch: Batch, teacher_outputs: Outputs | None) -> tuple[Outputs, Outputs]:
        """What the student and the teacher say of a batch; the teacher first, and without gradient."""
        teacher = self.teach(batch.images, teacher_outputs)
        return self.student(batch.images), teacher

    def teach(self, images: Tensor, teacher_outputs: Outputs | None = None) -> Outputs:
        """The teacher's outputs, without gradient: the given ones, or one pass over the images."""
        if teacher_outputs is not None:
            return teacher_outputs
        if self.teacher is None or not self.needs.teacher:
            return Outputs()
        with torch.no_grad():
            return self.teacher(images)

    def set_progress(self, steps: float, epochs: float | None = None) -> None:
        """Say how far the training is; the loop does, before every step.

        Args:
            steps: 0 to 1, by the optimiser steps that are behind it.
            epochs: 0 to 1, by the epochs that are behind it, which is what `progress_unit = "epoch"` goes by; default:
                as `steps`.
        """
        self.progress.fill_(epochs if self.progress_unit == "epoch" and epochs is not None else steps)

    def prepare(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """Measure what the method must know of the data before training starts.

        Called once before the first step of a new run, never on resume, so what the steps need belongs in buffers.

        Args:
            batches: unaugmented training images, (B, 3, H, W) in [0, 1]; a fresh pass at each iteration.

        Returns:
            What a user should know of it by name; the run prints it.
        """
        return {}

    def validation_metrics(self, batch: Batch, model: StagedModel, outputs: Outputs) -> dict[str, Tensor]:
        """Further (B,) values, one per validation image, such as whether an assistant is right; the loop averages.

        Args:
            batch: validation images and their labels.
            model: what is evaluated: the student, or its moving average where one runs.
            outputs: what it says of the images.
        """
        return {}

    def give_back_models(self) -> None:
        """Hold the models without owning them, for a method that is part of another one, which has them already.

        They are no submodules then: no parameter is twice in the whole's state dict.
        """
        for name in ("student", "teacher"):
            model = self._modules.pop(name, None)
            if model is not None:
                object.__setattr__(self, name, model)

    def critic_optimizer(self) -> torch.optim.Optimizer:
        """A new optimiser of the critic's parameters alone."""
        assert self.critic is not None
        return torch.optim.Adam(self.critic.parameters(), lr=self.critic_learning_rate)

    def _apply(self, fn: Any, recurse: bool = True) -> "Distiller":
        # What `to`, `cuda` and `double` come down to: the critic goes along, though it is no submodule.
        super()._apply(fn, recurse)
        if self.critic is not None:
            self.critic._apply(fn, recurse)
        return self

    def train(self, mode: bool = True) -> "Distiller":
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def extra_parameters(self) -> int:
        """Number of trainable parameters beside the student's own; the critic's are counted too."""
        own = {id(p) for p in self.student.parameters()}
        parts = [*self.parameters(), *(self.critic.parameters() if self.critic is not None else [])]
        return sum(p.numel() for p in parts if p.requires_grad and id(p) not in own)

    def no_weight_decay(self) -> set[str]:
        """Parameter names that take no weight decay: what the student asks for, under its name here."""
        return {f"student.{name}" for name in self.student.no_weight_decay()}


def _touch_everything(terms: dict[str, Tensor], student: Outputs) -> dict[str, Tensor]:
    """The same terms, which reach the whole student: what only labels teach, its head for one, gets zeros as gradient.

    Other processes wait for the gradient of every parameter in every step.
    """
    answer = student.logits if student.logits is not None else student.pooled
    if answer is None or not terms:
        return terms
    (name, first), *others = terms.items()
    return {name: first + 0 * answer.sum(), **dict(others)}


def _drop_teacher(module: nn.Module, state: dict, prefix: str, metadata: dict) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}teacher.")]:
        del state[name]


def _forgive_teacher(module: Distiller, incompatible: Any) -> None:
    """The same on loading; this hook is told no prefix, so a teacher's tensors are known by the rest of their names."""
    if module.teacher is not None:
        own = set(module.teacher.state_dict())
        missing: list[str] = incompatible.missing_keys
        missing[:] = [name for name in missing if name.partition("teacher.")[2] not in own]
