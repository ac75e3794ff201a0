"""The values of the loss terms between two reports."""

import math
from collections.abc import Iterator, Sequence

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


def term_gradients(terms: dict[str, Tensor], student: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Each term's gradient at the student's trainable parameters, one after another; the graph stays.

    Args:
        terms: named scalars of one step.
        student: the model.

    Yields:
        The name and (N,) float32: the gradient at all parameters, zeros where the term does not reach one.
    """
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    for name, term in terms.items():
        gradients: Sequence[Tensor | None] = [None] * len(parameters)
        if term.requires_grad:
            gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        yield (
            name,
            torch.cat(
                [
                    (torch.zeros_like(parameter) if gradient is None else gradient).flatten().float()
                    for parameter, gradient in zip(parameters, gradients, strict=True)
                ]
            ),
        )


def gradient_norms(terms: dict[str, Tensor], student: nn.Module) -> dict[str, float]:
    """Euclidean norm of each term's gradient at the student's parameters, in this process."""
    return {f"gradient_norm/{name}": gradient.norm().item() for name, gradient in term_gradients(terms, student)}
