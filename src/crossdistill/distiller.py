"""The frame that every method fills: a student, a frozen teacher, and named, weighted loss terms."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossdistill.errors import UserError
from crossdistill.staged import Outputs, StagedModel


class Distiller(nn.Module):
    """Base of all methods. `forward(images, labels)` returns the loss terms; the loss is their sum.

    A method is a subclass that owns its extra parts (projectors, prompts, memory banks) as submodules, parameters and
    buffers, so that they are trained, moved and saved with it. Everything that is trained runs inside `forward`: that
    is the one call that the training loop makes, and what `DistributedDataParallel` and `torch.compile` wrap.

    The teacher is frozen, stays in eval mode whatever `train()` is told, and is in no state dict.

    Args:
        student: the model that is trained.
        teacher: the model that is learnt from; None only for methods with `needs_teacher = False`.

    Raises:
        UserError: the method does not fit the pair (raised by the subclasses' constructors, with the reason).
    """

    needs_teacher: ClassVar[bool] = True
    # False for methods that learn from features only: they accept a teacher without a head.
    needs_teacher_logits: ClassVar[bool] = True
    # How finely the loop advances `progress`: with every optimiser step, or only when an epoch begins.
    progress_unit: Literal["iteration", "epoch"] = "iteration"
    # Optimiser steps of the student for one of the critic.
    critic_every: int = 1
    critic_learning_rate: float = 1e-4
    # Names of buffers whose value differs between processes; checkpoints hold them once per process.
    rank_local: tuple[str, ...] = ()

    progress: Tensor

    def __init__(self, student: StagedModel, teacher: StagedModel | None = None) -> None:
        super().__init__()
        if self.needs_teacher and teacher is None:
            raise UserError(f"{type(self).__name__} needs a teacher: give --teacher and --teacher_weights")
        if self.needs_teacher and self.needs_teacher_logits and teacher is not None and not teacher.num_classes:
            raise UserError(
                f"{type(self).__name__} learns from the teacher's logits and {teacher.name} has no head: "
                "choose a method that learns from features only, or a teacher with a classifier"
            )
        self.student = student
        self.teacher = teacher
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

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        indices: Tensor | None = None,
        teacher_outputs: Outputs | None = None,
    ) -> dict[str, Tensor]:
        """Loss terms of one batch.

        Args:
            images: (B, 3, H, W) in [0, 1]; each model normalises for itself.
            labels: (B,) class indices or (B, K) soft labels.
            indices: (B,) positions of the images in the training set, for memory banks.
            teacher_outputs: what the teacher says of these images, where it is known already.

        Returns:
            Named scalar terms, already weighted.
        """
        raise NotImplementedError

    def teach(self, images: Tensor, teacher_outputs: Outputs | None = None) -> Outputs:
        """The teacher's outputs, without gradient: the given ones, or one pass over the images."""
        if teacher_outputs is not None:
            return teacher_outputs
        assert self.teacher is not None
        with torch.no_grad():
            return self.teacher(images)

    def prepare(self, batches: Iterable[Tensor]) -> None:
        """Measure what the method must know of the data before training starts.

        Called once before the first step of a new run, never on resume, so the result belongs in buffers.

        Args:
            batches: unaugmented training images, (B, 3, H, W) in [0, 1]; a fresh pass at each iteration.
        """

    def validation_metrics(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Further (B,) values, one per validation image, such as whether an assistant is right; the loop averages."""
        return {}

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


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with (B,) class indices or (B, K) soft labels, mean over images."""
    return F.cross_entropy(logits, labels)


def hard_labels(labels: Tensor) -> Tensor:
    """(B,) class indices; of (B, K) soft labels the most likely class."""
    return labels.argmax(dim=1) if labels.ndim == 2 else labels


def _drop_teacher(module: nn.Module, state: dict, prefix: str, metadata: dict) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}teacher.")]:
        del state[name]


def _forgive_teacher(module: Distiller, incompatible: Any) -> None:
    """The same on loading; this hook is told no prefix, so a teacher's tensors are known by the rest of their names."""
    if module.teacher is not None:
        own = set(module.teacher.state_dict())
        missing: list[str] = incompatible.missing_keys
        missing[:] = [name for name in missing if name.partition("teacher.")[2] not in own]
