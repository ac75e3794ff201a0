"""What CSKD measures before training: at how many places the teacher's class is not its class for the image."""

import warnings

import pytest
import torch
from torch import nn

from crossdistill.errors import UserCaution
from crossdistill.methods.cskd import CSKD
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import SIDE, TINY


class Quarters(nn.Module):
    """A CNN whose place in the map has the class of its brightness: its image has that of the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.AvgPool2d(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(3, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
            self.head.bias.copy_(torch.tensor([0.5, -0.5]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.stage(x)).flatten(1))


def pair() -> CSKD:
    teacher = StagedModel(Quarters(), name="quarters", image_size=SIDE, stage_ends=["stage"])
    student = StagedModel(TINY["distilled"](2), name="distilled", image_size=SIDE)
    return CSKD(student, teacher)


def images(dark_rows: int) -> torch.Tensor:
    """Bright images whose upper places, of a 4x4 grid, are dark."""
    batch = torch.ones(4, 3, SIDE, SIDE)
    batch[:, :, : 8 * dark_rows] = 0
    return batch


def test_the_share_of_places_with_another_class() -> None:
    facts = pair().prepare([images(1), images(1)])
    assert list(facts.values()) == [25.0]


def test_a_pair_that_cannot_show_it_is_told() -> None:
    with pytest.warns(UserCaution, match="at all but 0 % of the places"):
        pair().prepare([images(0)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserCaution)
        pair().prepare([images(1)])
