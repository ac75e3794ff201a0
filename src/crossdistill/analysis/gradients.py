"""How strongly each loss term of a method pulls at the student when training starts.

Measured at the weights that the student has, over a few training batches, without a step: a run's learning rate begins
near zero, so that its first steps are made about here. A term that is small here may be large later, and the other way
round; docs/analysis.md shows how far that goes.
"""

import copy
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor

from crossdistill.data import Batch
from crossdistill.errors import UserCaution, UserError
from crossdistill.methods import build_distiller, load_method
from crossdistill.options import MethodOptions
from crossdistill.staged import StagedModel
from crossdistill.training.terms import term_gradients

# What every method calls the student's own task.
_LABELS = "labels"


@dataclass
class TermGradient:
    """One loss term of one method.

    Attributes:
        method: its name.
        term: the term's.
        norm: Euclidean norm of its weighted gradient at the student's parameters, mean over batches.
        share: of the sum of the norms of the method's terms, 0 to 1.
        cosine: of the angle to the gradient of the labels' term, mean over batches; NaN where one of both is zero.
    """

    method: str
    term: str
    norm: float
    share: float
    cosine: float


@dataclass
class Gradients:
    """What `crossdistill inspect --measure` shows.

    Attributes:
        terms: method by method.
        measured_on: in words.
    """

    terms: list[TermGradient]
    measured_on: str

    def __rich__(self) -> Table:
        """One table, for `rich.print`."""
        table = Table(
            title="gradient of each loss term at the student when training starts",
            title_justify="left",
            caption=f"weighted terms, {self.measured_on}; share: of the sum of a method's norms; cosine: with the "
            "labels' gradient",
            caption_justify="left",
        )
        for column in ("method", "term", "norm", "share %", "cosine"):
            table.add_column(column, justify="left" if column in ("method", "term") else "right", overflow="fold")
        for found in self.terms:
            cosine = "-" if found.cosine != found.cosine else f"{found.cosine:.2f}"
            table.add_row(found.method, found.term, f"{found.norm:.3g}", f"{100 * found.share:.1f}", cosine)
        return table


def measure_gradients(
    methods: Iterable[str],
    teacher: StagedModel,
    student: StagedModel,
    batches: Sequence[Batch],
    plain: Iterable[Tensor],
    *,
    train_size: int,
    measured_on: str,
) -> Gradients:
    """Measure every method that fits the pair, with its default hyper-parameters; the others are left out.

    Every method gets a copy of the student and the same random numbers, so that another call measures the same.

    Args:
        methods: names or dotted paths.
        teacher: on the device of the batches; is frozen afterwards, as in any distillation.
        student: stays as it is.
        batches: training batches, at least one.
        plain: training images without augmentation, for what methods measure before their first step.
        train_size: number of training images, for memory banks.
        measured_on: what the table says of the batches.
    """
    terms: list[TermGradient] = []
    for name in methods:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserCaution)
            torch.manual_seed(0)
            # A method that reads nothing of a teacher is trained without one.
            needed = teacher if load_method(name).needs.teacher else None
            try:
                distiller = build_distiller(MethodOptions(name), copy.deepcopy(student), needed, train_size=train_size)
            except UserError:
                continue
            distiller.to(batches[0].images.device).train()
            distiller.prepare(plain)
            try:
                steps = [_measure(distiller, batch) for batch in batches]
            except torch.OutOfMemoryError as error:
                raise UserError(f"the device has too little memory for {name}: lower --batch_size") from error
        terms += _means(name, steps)
    return Gradients(terms, measured_on)


def _measure(distiller: torch.nn.Module, batch: Batch) -> dict[str, tuple[float, float]]:
    """Norm and cosine of each term in one step."""
    terms = distiller(batch.images, batch.labels, indices=batch.indices)
    values: dict[str, tuple[float, float]] = {}
    labels: Tensor | None = None
    # The base puts the labels' term first, so that it is known when the others come.
    for name, gradient in term_gradients(terms, distiller.student):  # type: ignore[arg-type]
        labels = gradient if name == _LABELS else labels
        norm, cosine = gradient.norm().item(), float("nan")
        if labels is not None and norm and labels.norm():
            cosine = torch.cosine_similarity(gradient, labels, dim=0, eps=0).item()
        values[name] = norm, cosine
    return values


def _means(method: str, steps: Sequence[dict[str, tuple[float, float]]]) -> list[TermGradient]:
    means = {name: tuple(sum(step[name][i] for step in steps) / len(steps) for i in range(2)) for name in steps[0]}
    total = sum(norm for norm, _ in means.values())
    shares = {name: norm / total if total else 0.0 for name, (norm, _) in means.items()}
    return [TermGradient(method, name, norm, shares[name], cosine) for name, (norm, cosine) in means.items()]
