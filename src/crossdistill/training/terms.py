"""The values of the loss terms between two reports."""

import math

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from crossdistill.training.devices import over_processes


class TermSums:
    """Weighted sums of the loss terms on the device: reading them at every step would make the host wait.

    Attributes:
        sums: of each term.
        weights: sum of each term's weights; a critic's term does not come with every step.
        steps: optimiser steps of the student since the last report.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.weights: dict[str, float] = {}
        self.steps = 0

    def add(self, terms: dict[str, Tensor], weight: float = 1.0) -> None:
        for name, value in terms.items():
            value = value.detach().float() * weight
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.weights[name] = self.weights.get(name, 0.0) + weight

    def means(self, fabric: Fabric) -> dict[str, float]:
        """Mean of each term over its steps and over processes. Here, and only here, a training step's host waits."""
        if not self.sums:
            return {}
        stacked = torch.stack([value / self.weights[name] for name, value in self.sums.items()])
        return dict(zip(self.sums, over_processes(fabric, stacked, "mean").tolist(), strict=True))

    def clear(self) -> None:
        self.sums, self.weights, self.steps = {}, {}, 0


def first_not_finite(means: dict[str, float]) -> str | None:
    """Name of the first term that is infinite or not a number."""
    return next((name for name, value in means.items() if not math.isfinite(value)), None)


def gradient_norms(terms: dict[str, Tensor], student: nn.Module) -> dict[str, float]:
    """Euclidean norm of each term's gradient at the student's parameters, in this process."""
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    norms = {}
    for name, term in terms.items():
        if not term.requires_grad:
            norms[f"gradient_norm/{name}"] = 0.0
            continue
        gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        known = [gradient for gradient in gradients if gradient is not None]
        norms[f"gradient_norm/{name}"] = nn.utils.get_total_norm(known).item() if known else 0.0
    return norms
