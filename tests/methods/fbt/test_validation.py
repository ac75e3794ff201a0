"""How FBT's assistant is watched."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from crossdistill.methods.fbt.fbt import FBT
from crossdistill.testing.tiny_models import SIDE
from fbt.helpers import batch, make


@pytest.mark.parametrize(("teacher", "student"), [("vit", "cnn"), ("cnn", "vit")])
def test_validation_metrics_leave_the_student_as_it_was(teacher: str, student: str) -> None:
    method = make(teacher, student)
    before = copy.deepcopy(method.student.state_dict())
    values = method.validation_metrics(*batch(5))
    assert set(values) == {"assistant_top1", "assistant_top1_foreign_front"}
    assert all(value.shape == (5,) for value in values.values())
    assert method.student.training
    assert all(torch.equal(value, before[name]) for name, value in method.student.state_dict().items())


def test_foreign_fronts_come_from_another_class(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make("mlp", "cnn")
    shown: list[Tensor] = []

    def assist(images: Tensor, feature: Tensor, tail: object = None) -> Any:
        shown.append(feature.mean((1, 2, 3)))
        return SimpleNamespace(logits=torch.zeros(len(feature), 3))

    monkeypatch.setattr(method, "assist", assist)
    monkeypatch.setattr(FBT, "front", property(lambda self: lambda images: SimpleNamespace(features=[images] * 4)))

    def partners(values: list[float], labels: list[int]) -> list[float]:
        shown.clear()
        images = torch.tensor(values)[:, None, None, None].expand(-1, 3, 2, 2)
        right = method.validation_metrics(images, torch.tensor(labels))["assistant_top1_foreign_front"]
        return shown[1][: len(right)].tolist()

    assert partners([0.0, 1.0], [0, 0]) == []  # nobody of another class was seen yet
    assert partners([2.0, 3.0, 4.0], [0, 1, 1]) == [3.0, 2.0, 2.0]
    assert partners([5.0, 6.0], [1, 1]) == [2.0, 2.0]  # one class alone: the image kept from the batch before
    assert partners([7.0], [1]) == [2.0]


def test_an_evaluation_does_not_depend_on_the_one_before() -> None:
    # As an image folder comes: one class after the other, so that most batches hold one class alone.
    images = torch.rand(12, 3, SIDE, SIDE)
    labels = torch.arange(12) // 6
    method = make("vit", "cnn")

    def evaluation() -> list[Tensor]:
        method.train()
        parts = zip(images.split(4), labels.split(4), strict=True)
        return [method.validation_metrics(*part)["assistant_top1_foreign_front"] for part in parts]

    first, second = evaluation(), evaluation()
    assert [len(values) for values in first] == [0, 4, 4]
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
