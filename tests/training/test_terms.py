"""Means of loss terms, of which some do not come with every step."""

import pytest
import torch
from lightning.fabric import Fabric

from crossdistill.training.terms import TermSums


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
