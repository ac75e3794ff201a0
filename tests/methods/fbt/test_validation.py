"""How FBT's assistant is watched."""

import copy

import pytest
import torch

from crossdistill.testing import validated
from crossdistill.testing.tiny_models import SIDE
from fbt.helpers import batch, make


@pytest.mark.parametrize(("teacher", "student"), [("vit", "cnn"), ("cnn", "vit")])
def test_validation_metrics_leave_the_student_as_it_was(teacher: str, student: str) -> None:
    method = make(teacher, student)
    before = copy.deepcopy(method.student.state_dict())
    values = validated(method, *batch(5))
    assert set(values) == {"assistant_top1", "assistant_top1_foreign_front"}
    assert all(value.shape == (5,) for value in values.values())
    assert method.student.training
    assert all(torch.equal(value, before[name]) for name, value in method.student.state_dict().items())


def test_the_foreign_front_saw_a_grey_image() -> None:
    method = make("vit", "cnn", training=False)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    images = torch.rand(6, 3, SIDE, SIDE)
    foreign = validated(method, images, labels)["assistant_top1_foreign_front"]
    # With nothing to tell images apart, every image is given the same class.
    assert foreign.sum() == 2
    # One image more or less changes nothing of the others.
    assert torch.equal(validated(method, images[:3], labels[:3])["assistant_top1_foreign_front"], foreign[:3])


def test_tokens_of_the_owner_show_an_assistant_that_answers_without_its_front() -> None:
    # Every image is told apart by its own tokens, whatever the front saw.
    method = make("vit", "cnn", prefix="own", training=False)
    images = torch.rand(24, 3, SIDE, SIDE)
    grey = method.front(torch.full((24, 3, SIDE, SIDE), 0.5)).features[method.front_boundary]
    with torch.no_grad():
        answers = method.assist(grey, method.tail(images)).logits.argmax(dim=1)
    assert validated(method, images, answers)["assistant_top1_foreign_front"].all()
