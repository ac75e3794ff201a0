"""Means of loss terms, of which some do not come with every step."""

import pytest
import torch
from lightning.fabric import Fabric
from torch import nn

from crossdistill.training.terms import TermSums, gradient_norms, term_gradients


def test_every_term_is_averaged_over_its_own_steps() -> None:
    sums = TermSums()
    fabric = Fabric(accelerator="cpu", devices=1)
    for step in range(3):
        # Two batches of one optimiser step.
        for half in (0.0, 1.0):
            sums.add({"labels": torch.tensor(step + half)}, 0.5)
        sums.steps += 1
    sums.add({"critic": torch.tensor(7.0)})
    assert sums.means(fabric) == pytest.approx({"labels": 1.5, "critic": 7.0})
    sums.clear()
    assert sums.means(fabric) == {}


def test_a_terms_gradient_has_zeros_where_it_does_not_reach() -> None:
    student = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1))
    terms = {"first": 3 * student[0].weight.sum(), "nothing": torch.ones(())}
    gradients = dict(term_gradients(terms, student))
    assert gradients["first"].tolist() == [3, 3, 0, 0] and gradients["nothing"].tolist() == [0] * 4
    assert gradient_norms(terms, student) == pytest.approx({"gradient_norm/first": 18**0.5, "gradient_norm/nothing": 0})
