"""What FBT compares: the vector that the head reads, or the mean of the last map."""

import pytest
import torch

from crossdistill.methods.fbt import FBT
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import SIDE, TINY


def make(teacher: str, student: str, **hyperparameters: object) -> FBT:
    torch.manual_seed(0)
    models = (StagedModel(TINY[kind](), name=kind, image_size=SIDE) for kind in (student, teacher))
    return FBT(*models, **hyperparameters).train()  # type: ignore[arg-type]


def features(method: FBT) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    terms = method(torch.rand(4, 3, SIDE, SIDE), torch.tensor([0, 1, 2, 0]))
    return {name: term for name, term in terms.items() if name.endswith("features")}


def test_models_that_average_have_one_feature() -> None:
    head, mean = features(make("mlp", "cnn")), features(make("mlp", "cnn", feature="map"))
    for name in head:
        torch.testing.assert_close(head[name], mean[name])


@pytest.mark.parametrize(("teacher", "student"), [("vit", "cnn"), ("cnn", "vit")])
def test_a_class_tokens_head_does_not_read_the_patches(teacher: str, student: str) -> None:
    head, mean = features(make(teacher, student)), features(make(teacher, student, feature="map"))
    assert any(not torch.allclose(head[name], mean[name]) for name in head)


def test_it_declares_what_it_reads() -> None:
    assert {"logits", "pooled", "segments"} <= make("vit", "cnn").needs.teacher
    assert "final" not in make("vit", "cnn").needs.teacher
    assert "final" in make("vit", "cnn", smoothing="per_position").needs.teacher
    assert make("cnn", "vit").needs.teacher >= {"logits", "pooled", "features.3"}
