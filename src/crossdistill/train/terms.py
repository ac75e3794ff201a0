"""The values of the loss terms between two reports."""

import math

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from crossdistill.train.fabric import over_processes


class TermSums:
    """Sums of the loss terms on the device: reading them at every step would make the host wait.

    Attributes:
        sums: of each term.
        steps: optimiser steps that they are over.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, terms: dict[str, Tensor], weight: float) -> None:
        for name, value in terms.items():
            value = value.detach().float() * weight
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def means(self, fabric: Fabric) -> dict[str, float]:
        """Mean of each term over steps and processes. The one place where the host waits."""
        if not self.sums:
            return {}
        stacked = torch.stack(list(self.sums.values())) / max(1, self.steps)
        return dict(zip(self.sums, over_processes(fabric, stacked, "mean").tolist(), strict=True))

    def clear(self) -> None:
        self.sums, self.steps = {}, 0


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
