"""Options of the optimisation: how long, in what steps, at what rate."""

from dataclasses import dataclass
from typing import Literal

from crossdistill.options.values import NonNegativeFloat, PositiveFloat, PositiveInt, Seed, ShareBelowOne


@dataclass
class OptimizationOptions:
    """Optimisation."""

    epochs: PositiveInt = 50
    """passes over the training set."""
    max_steps: PositiveInt | None = None
    """stop after so many optimiser steps, whatever the epochs; the schedule ends there."""
    batch_size: PositiveInt = 128
    """images of one optimiser step, over all devices and accumulation steps."""
    accumulate: PositiveInt = 1
    """forward and backward passes of one optimiser step."""
    optimizer: str = "adamw"
    """name of a timm optimiser (sgd, adamw, lamb, ...)."""
    learning_rate: NonNegativeFloat = 1e-3
    """peak learning rate; not scaled with the batch size."""
    min_learning_rate: NonNegativeFloat = 1e-5
    """where the cosine schedule ends."""
    weight_decay: NonNegativeFloat = 0.05
    """weight decay; vectors and biases have none."""
    # With 1 a velocity, or a moving average, would keep its first value for ever.
    momentum: ShareBelowOne = 0.9
    """momentum of SGD and its kin."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """learning-rate schedule."""
    step_epochs: PositiveFloat = 30
    """epochs between drops of the `step` schedule."""
    step_decay: NonNegativeFloat = 0.1
    """factor of a drop of the `step` schedule."""
    warmup_epochs: NonNegativeFloat | None = None
    """epochs of linear warm-up; default: a twentieth of the training."""
    warmup_learning_rate: NonNegativeFloat = 1e-6
    """where the warm-up starts."""
    clip_gradient: NonNegativeFloat = 0.0
    """largest global norm of the gradient; 0 does not clip."""
    ema_decay: ShareBelowOne = 0.0
    """decay of a moving average of the student, which is then what is evaluated and saved; 0: none."""
    seed: Seed = 0
    """of weights, dropout and everything else that is random in the model."""
