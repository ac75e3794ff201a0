"""What is found wrong with a teacher before training."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from crossdistill.data import EvalLoader, ImageData, TensorSource
from crossdistill.errors import UserError
from crossdistill.models import build_model
from crossdistill.options import ModelOptions
from crossdistill.staged import Outputs, StagedModel
from crossdistill.training.preflight import check_teacher

SIZE = (16, 16)


class Oracle(StagedModel):
    """A teacher that reads the class from the brightness of the image, and errs on a share of the classes."""

    right_below: int = 4

    def forward(self, images: Tensor) -> Outputs:
        answers = (images.mean(dim=(1, 2, 3)) * self.num_classes).long()
        answers = torch.where(answers < self.right_below, answers, (answers + 1) % self.num_classes)
        return dataclasses.replace(
            super().forward(images), logits=torch.nn.functional.one_hot(answers, self.num_classes).float()
        )


def brightness_data(labels: list[int], classes: list[str]) -> ImageData:
    """Grey images whose brightness tells their class."""
    values = torch.tensor([int(255 * (label + 0.5) / len(classes)) for label in labels], dtype=torch.uint8)
    source = TensorSource(values.view(-1, 1, 1, 1).expand(-1, 3, *SIZE).contiguous(), torch.tensor(labels))
    return ImageData("brightness", classes, source, source)


DATA = brightness_data([0, 1, 2, 3] * 25, ["ant", "bee", "cat", "dog"])


@pytest.fixture(scope="module")
def student() -> StagedModel:
    return build_model(ModelOptions("test_resnet"), num_classes=4, image_size=SIZE)


def teacher(right_below: int = 4, size: tuple[int, int] = SIZE, **card: Any) -> StagedModel:
    model = build_model(ModelOptions("test_resnet"), num_classes=4, image_size=size).eval()
    model.__class__ = Oracle
    model.right_below = right_below  # type: ignore[assignment]
    trained = {"weights": "teacher.safetensors", "head_trained": True}
    model.card = dataclasses.replace(model.card, **(trained | card))
    return model


def check(
    teacher: StagedModel, student: StagedModel, data: ImageData = DATA, images: int = 80, allow_weak: bool = False
) -> dict[str, Any]:
    validation = EvalLoader(data.validation, image_size=SIZE, batch_size=64, device="cpu", workers=0)
    report = check_teacher(teacher, student, data, validation, images=images, allow_weak=allow_weak)
    if teacher.num_classes:
        # Every image was asked about once, whatever the check took first.
        expected = teacher(torch.cat([batch.images for batch in validation])).logits
        assert report.logits is not None and torch.equal(report.logits, expected)
    return {
        "images": report.images,
        "teacher_top1": report.top1,
        "chance": report.chance,
        "warnings": report.warnings,
    }


def test_a_good_teacher_passes_without_a_word(student: StagedModel) -> None:
    assert check(teacher(), student) == {"images": 80, "teacher_top1": 100.0, "chance": 25.0, "warnings": []}


def test_the_slice_is_the_same_every_time_and_leaves_the_random_state_alone(student: StagedModel) -> None:
    erring = teacher(right_below=3)
    state = torch.get_rng_state()
    first = check(erring, student, images=30)
    assert first == check(erring, student, images=30)
    assert torch.equal(state, torch.get_rng_state())
    assert 50 < first["teacher_top1"] < 100


def test_no_more_images_than_there_are(student: StagedModel) -> None:
    assert check(teacher(), student, images=10_000)["images"] == 100
    assert check(teacher(), student, images=0)["teacher_top1"] is None


@pytest.mark.parametrize("right_below", [0, 1])
def test_a_teacher_near_chance_is_refused_unless_insisted(student: StagedModel, right_below: int) -> None:
    with pytest.raises(UserError, match=r"near chance: .* of 100 validation images right.*--allow_weak_teacher true"):
        check(teacher(right_below), student, images=100)
    report = check(teacher(right_below), student, images=100, allow_weak=True)
    assert report["teacher_top1"] == 25.0 * right_below
    assert any("near chance" in line for line in report["warnings"])


def test_chance_is_the_most_frequent_class_of_unbalanced_data(student: StagedModel) -> None:
    data = brightness_data([0] * 80 + [1, 2, 3] * 7, DATA.classes)
    # Right on the frequent class alone: 79 % of the images, and nothing learnt.
    with pytest.raises(UserError, match="near chance"):
        check(teacher(right_below=1), student, data, images=101)
    assert check(teacher(), student, data, images=101)["chance"] == pytest.approx(100 * 80 / 101)


def test_a_teacher_without_weights_is_refused(student: StagedModel) -> None:
    with pytest.raises(UserError, match=r"has no weights: give --teacher_weights"):
        check(teacher(weights="none", head_trained=False), student)
    warnings = check(teacher(weights="none", head_trained=False), student, allow_weak=True)["warnings"]
    assert len(warnings) == 1


def test_a_new_head_is_refused(student: StagedModel) -> None:
    with pytest.raises(UserError, match=r"has a new head for the 4 classes: train it on them first"):
        check(teacher(weights="pretrained", head_trained=False), student)


def test_other_classes_are_refused_however_weak_the_teacher_may_be(student: StagedModel) -> None:
    with pytest.raises(UserError, match=r"class 1 is 'bee' in the data and 'cow' for the teacher"):
        check(teacher(classes=["ant", "cow", "cat", "dog"]), student, allow_weak=True)
    assert check(teacher(classes=list(DATA.classes)), student)["warnings"] == []
    with pytest.raises(UserError, match=r"has 4 classes, the data has 3: map them with --teacher_classes"):
        check(teacher(), student, brightness_data([0, 1, 2], ["ant", "bee", "cat"]), allow_weak=True)


def test_a_teacher_without_a_head_is_not_asked(student: StagedModel) -> None:
    options = ModelOptions("test_resnet", {"num_classes": 0})
    headless = build_model(options, num_classes=4, image_size=SIZE, role="teacher")
    with pytest.raises(UserError, match="has no weights"):
        check(headless, student)
    headless.card.weights = "backbone.safetensors"
    assert check(headless, student) == {"images": 0, "teacher_top1": None, "chance": None, "warnings": []}


def test_another_size_and_normalisation_are_told(student: StagedModel) -> None:
    warnings = check(teacher(size=(32, 32), mean=(0.0, 0.0, 0.0)), student)["warnings"]
    assert any("16x16 images of the student resized to 32x32" in line for line in warnings)
    assert any("teacher mean (0, 0, 0)" in line and "student mean (0.5, 0.5, 0.5)" in line for line in warnings)
