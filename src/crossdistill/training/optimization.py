"""Optimiser and learning-rate schedule, from timm."""

from torch.optim import Optimizer

from crossdistill.distiller import Distiller
from crossdistill.errors import UserError, nearest
from crossdistill.options import OptimizationOptions


def make_optimizer(distiller: Distiller, options: OptimizationOptions) -> Optimizer:
    """One optimiser for the student and the method's own parts.

    Vectors, biases and what the student names take no weight decay.

    Raises:
        UserError: the optimiser needs what is not installed, or refuses its arguments.
    """
    from timm.optim import create_optimizer_v2

    try:
        return create_optimizer_v2(
            distiller,
            opt=options.optimizer,
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            momentum=options.momentum,
            filter_bias_and_bn=True,
        )
    except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or "something that it needs is not installed"
        raise UserError(f"--optimizer {options.optimizer} cannot be used: {reason}") from error


def check_optimizer(name: str) -> None:
    """Refuse an optimiser before anything is loaded.

    Raises:
        UserError: timm has none of that name, or it needs second derivatives, which the training step does not keep.
    """
    from timm.optim import get_optimizer_info, list_optimizers

    names = [str(known) for known in list_optimizers()]
    if name.lower() not in names:
        raise UserError(f"--optimizer {name}: unknown{nearest(name, names)}")
    if get_optimizer_info(name.lower()).second_order:
        raise UserError(f"--optimizer {name} needs second derivatives, which are not kept: choose another")


def total_steps(options: OptimizationOptions, steps_per_epoch: int) -> int:
    """Optimiser steps of a run."""
    steps = options.epochs * steps_per_epoch
    return min(steps, options.max_steps) if options.max_steps else steps


class Schedule:
    """The learning rate as a function of the step alone, so that a resumed run needs no state of it.

    Args:
        optimizer: whose groups are set.
        options: the recipe.
        total_steps: optimiser steps of the run.
        steps_per_epoch: optimiser steps of an epoch.
    """

    def __init__(
        self, optimizer: Optimizer, options: OptimizationOptions, total_steps: int, steps_per_epoch: int
    ) -> None:
        from timm.scheduler import create_scheduler_v2

        if options.warmup_epochs is None:
            warmup = total_steps // 20
        else:
            # A warm-up as long as the run would leave nothing of the schedule.
            warmup = min(round(options.warmup_epochs * steps_per_epoch), total_steps - 1)
        self._scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=options.schedule,
            num_epochs=total_steps,
            decay_epochs=max(1, round(options.step_epochs * steps_per_epoch)),
            decay_rate=options.step_decay,
            min_lr=min(options.min_learning_rate, options.learning_rate),
            warmup_lr=min(options.warmup_learning_rate, options.learning_rate),
            warmup_epochs=max(0, warmup),
            step_on_epochs=False,
            updates_per_epoch=1,
        )
        self._optimizer = optimizer

    def set(self, step: int) -> float:
        """Set the learning rate of step `step` (counted from 0) and return it."""
        self._scheduler.step_update(step)
        return self._optimizer.param_groups[0]["lr"]
