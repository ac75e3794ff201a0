"""The teacher's head at every position, and the authors' inference with the student's."""

import functools

import pytest
import timm
import torch
from torch import nn

from crossdistill.methods.cskd import CSKD, logits_with_patches
from crossdistill.methods.kd import kd_loss
from crossdistill.modules.alignment import match_grids
from crossdistill.staged import StagedModel
from crossdistill.testing import validated
from crossdistill.testing.tiny_models import SIDE
from cskd.helpers import pair, staged

pytestmark = pytest.mark.filterwarnings("ignore:CSKD. the last map")

EXACT = {
    "regnet": "regnetx_002",
    "resnet": "test_resnet",
    "efficientnet_lite": "efficientnet_lite0",
    "convnext": "test_convnext",
}


@functools.cache
def double_teacher(name: str) -> StagedModel:
    model = timm.create_model(name, num_classes=7).double().eval()
    for parameter in model.parameters():
        # Fresh heads are small and fresh norms trivial: nothing would be proven.
        nn.init.normal_(parameter, std=0.1) if parameter.ndim > 1 else nn.init.uniform_(parameter, 0.5, 1.5)
    return StagedModel(model, name=name, image_size=(96, 160))


@pytest.mark.parametrize("kind", EXACT)
def test_the_mean_of_the_dense_logits_is_the_teachers_answer(kind: str) -> None:
    teacher = double_teacher(EXACT[kind])
    method = CSKD(staged("distilled", 7), teacher)
    outputs = method.teach(torch.rand(2, 3, 96, 160, dtype=torch.float64))
    dense = method.teacher_dense_logits(outputs)
    assert dense.shape == (2, 7, 3, 5)
    assert dense.std((2, 3)).min() > 0
    error = (dense.mean((2, 3)) - outputs.logits).abs().max() / outputs.logits.abs().max()
    assert error < 1e-12


def test_a_teacher_with_two_heads_answers_with_their_mean() -> None:
    teacher = timm.create_model("levit_128s", num_classes=3).eval()
    for head in (teacher.head, teacher.head_dist):
        nn.init.normal_(head.linear.weight)
    method = CSKD(staged("distilled"), StagedModel(teacher, name="levit", image_size=224))
    outputs = method.teach(torch.rand(1, 3, 224, 224))
    torch.testing.assert_close(method.teacher_dense_logits(outputs).mean((2, 3)), outputs.logits, rtol=1e-4, atol=1e-4)


def test_the_answer_to_the_image_is_the_teachers_own_where_its_head_is_not_linear() -> None:
    method = CSKD(staged("distilled", 7), double_teacher("mobilenetv3_small_050"), kind="soft").double()
    method.progress.fill_(1.0)
    images = torch.rand(2, 3, 96, 160, dtype=torch.float64)
    student, teacher = method.student(images), method.teach(images)
    local = method.teacher_dense_logits(teacher)
    assert (local.mean((2, 3)) - teacher.logits).abs().max() > 0.01
    dense, _ = match_grids(method.student.dense_logits(student.final, "distillation"), local)
    positions = [kd_loss(position, teacher.logits, 1.0) for position in dense.flatten(2).unbind(2)]
    torch.testing.assert_close(method.spatial_loss(student, teacher), torch.stack(positions).mean())


def test_the_authors_inference_is_a_mean_of_three() -> None:
    method = pair().eval()
    images, labels = torch.rand(5, 3, SIDE, SIDE), torch.tensor([0, 1, 2, 0, 1])
    student = method.student(images)
    patches = method.student.model.head_dist(student.final.flatten(2).mean(2))
    expected = (student.head_logits["class"] + student.head_logits["distillation"] + patches) / 3
    torch.testing.assert_close(logits_with_patches(method.student, student), expected)
    method.train()
    metrics = validated(method, images, labels)
    assert torch.equal(metrics["top1_with_patches"], expected.argmax(1) == labels)
    assert method.student.training
    # Where the head averages the patch tokens there is nothing to add.
    assert validated(pair(student="swin"), images, labels) == {}
