"""How large PAT's terms are at the first step: the matching must not outweigh labels and logits from the start."""

import pytest
import torch

from crossdistill.methods.pat import PAT
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import SIDE, TINY


def first_step(teacher: str, student: str, **hyperparameters: object) -> dict[str, float]:
    torch.manual_seed(0)
    models = (StagedModel(TINY[kind](10), name=kind, image_size=SIDE) for kind in (student, teacher))
    method = PAT(*models, **hyperparameters).train()  # type: ignore[arg-type]
    images, labels = torch.rand(16, 3, SIDE, SIDE), torch.arange(16) % 10
    return {name: term.item() for name, term in method(images, labels).items() if name.startswith("stage")}


@pytest.mark.parametrize("teacher", TINY)
def test_the_matching_begins_near_the_variance_of_its_targets(teacher: str) -> None:
    # Standardised targets have variance 1; at the default width.
    for student in ("cnn", "vit"):
        terms = first_step(teacher, student)
        assert len(terms) >= 3
        assert max(terms.values()) <= 1.5, terms


def test_released_begins_as_released() -> None:
    features = first_step("cnn", "vit", variant="released", standardize_features=True)
    assert max(features.values()) > 10
