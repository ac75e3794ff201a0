"""How strongly each loss term pulls at the student."""

import io
import math

import pytest
import torch
from rich.console import Console
from torch import Tensor

from crossdistill.analysis.gradients import measure_gradients
from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.staged import Outputs, StagedModel
from crossdistill.testing.tiny_models import CLASSES, SIDE, TINY, staged


class Known(Distiller):
    """Terms whose gradients follow from the labels'."""

    needs = Needs(teacher={"logits"}, student={"logits"}, labels=True)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        own = self.label_terms(student, batch.labels)["labels"]
        return {"against": -3 * own, "nothing": teacher.logits.sum()}


KNOWN = f"{Known.__module__}.Known"


def _measure(student: StagedModel, *methods: str) -> dict[tuple[str, str], tuple[float, float, float]]:
    batches = [Batch(torch.rand(4, 3, SIDE, SIDE), torch.arange(4) % CLASSES, torch.arange(4)) for _ in range(2)]
    teacher = staged("vit", TINY["vit"])
    plain = [batch.images for batch in batches]
    found = measure_gradients(methods, teacher, student, batches, plain, train_size=8, measured_on="noise")
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(found)
    text = console.export_text()
    assert "noise" in text and all(term.term in text for term in found.terms)
    return {(term.method, term.term): (term.norm, term.share, term.cosine) for term in found.terms}


def test_shares_and_cosines_of_known_gradients() -> None:
    student = staged("cnn", TINY["cnn"])
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    random_state = torch.get_rng_state()
    # From a method that fits no pair nothing is measured.
    torch.manual_seed(0)
    found = _measure(student, KNOWN, "minilm")
    assert set(found) == {(KNOWN, "labels"), (KNOWN, "against"), (KNOWN, "nothing")}
    (norm, share, cosine), against, nothing = found.values()
    assert norm > 0 and share == pytest.approx(0.25, rel=1e-4) and cosine == pytest.approx(1, rel=1e-4)
    assert against == pytest.approx((3 * norm, 0.75, -1), rel=1e-4)
    assert nothing[:2] == (0, 0) and math.isnan(nothing[2])
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())
    assert all(parameter.grad is None for parameter in student.parameters())
    torch.set_rng_state(random_state)


def test_the_norm_is_that_of_the_gradient_at_all_of_the_students_parameters() -> None:
    student = staged("mlp", TINY["mlp"])
    batch = Batch(torch.rand(4, 3, SIDE, SIDE), torch.arange(4) % CLASSES, torch.arange(4))
    found = measure_gradients(
        ["scratch"], student, student, [batch], [batch.images], train_size=4, measured_on=""
    ).terms[0]
    torch.nn.functional.cross_entropy(student(batch.images).logits, batch.labels).backward()
    squares = [p.grad.double().square().sum() for p in student.parameters() if p.grad is not None]
    assert found.norm == pytest.approx(torch.stack(squares).sum().sqrt().item(), rel=1e-4)


def test_another_call_measures_the_same() -> None:
    """The projectors of a method are drawn anew."""
    student = staged("cnn", TINY["cnn"])
    results = []
    for seed in (1, 2):
        torch.manual_seed(0)
        batch = Batch(torch.rand(4, 3, SIDE, SIDE), torch.arange(4) % CLASSES, torch.arange(4))
        torch.manual_seed(seed)
        arguments = (["fitnet"], staged("vit", TINY["vit"]), student, [batch], [batch.images])
        found = measure_gradients(*arguments, train_size=4, measured_on="").terms
        results.append([term.norm for term in found])
    assert len(results[0]) > 1 and results[0] == results[1]
