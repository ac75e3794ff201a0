"""How long a training step takes, on noise: what a step costs does not depend on what the images show."""

import time
import warnings
from collections.abc import Callable

import torch

from crossdistill.distiller import Distiller
from crossdistill.errors import UserCaution


class TrainingStep:
    """Optimiser steps of a method as a training loop makes them, each on the same random images.

    Calling it makes one step of the student, and one of the critic where it is due.

    Args:
        distiller: on its device; is trained, and prepared for the images.
        batch_size: images of a step.
    """

    def __init__(self, distiller: Distiller, batch_size: int) -> None:
        student = distiller.student
        device = next(student.parameters()).device
        self.distiller = distiller.train()
        self.images = torch.rand(batch_size, 3, *student.image_size, device=device)
        classes = student.num_classes
        # A student without a head learns without labels.
        self.labels = torch.arange(batch_size, device=device) % classes if classes else None
        self.indices = torch.arange(batch_size, device=device)
        with warnings.catch_warnings():
            # What a method says of random images is nothing to tell a user.
            warnings.simplefilter("ignore", UserCaution)
            distiller.prepare([self.images])
        trained = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self._critic_optimizer = distiller.critic_optimizer() if distiller.critic is not None else None
        self._steps = 0

    def __call__(self) -> None:
        self.of_student()
        self._steps += 1
        if self._steps % self.distiller.critic_every == 0:
            self.of_critic()

    def of_student(self) -> None:
        """Forward, backward and optimiser of the student and of the method's own parts."""
        terms = self.distiller(self.images, self.labels, indices=self.indices)
        torch.stack(list(terms.values())).sum().backward()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def of_critic(self) -> None:
        """The same of the critic, on what the student's last step left for it; nothing without one."""
        if self._critic_optimizer is None:
            return
        assert self.distiller.critic is not None and self.distiller.critic_batch is not None
        self.distiller.critic(*self.distiller.critic_batch).backward()
        self._critic_optimizer.step()
        self._critic_optimizer.zero_grad()


def seconds_per_step(distiller: Distiller, batch_size: int) -> float:
    """Seconds of one training step, behind one that warms up; the critic's counts as often as it is made.

    Args:
        distiller: as for `TrainingStep`.
        batch_size: images of a step.
    """
    step = TrainingStep(distiller, batch_size)
    parts = (step.of_student, step.of_critic)
    for part in parts:
        part()
    of_student, of_critic = (_seconds(part, step.images.device) for part in parts)
    return of_student + of_critic / distiller.critic_every


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    _synchronize(device)
    started = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
