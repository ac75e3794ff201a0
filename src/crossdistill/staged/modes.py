"""Modes that a model is put in for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode for a while; every part of it is then in the mode that it was in."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        # `train` is called too, because some of timm's models throw away in it what they kept for evaluation.
        if any(training.values()):
            model.train()
        for module, mode in training.items():
            module.training = mode


@contextmanager
def unchanged_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch norms normalise by the batch, in training mode, without updating their running statistics."""
    tracking = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True
