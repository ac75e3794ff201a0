"""How FBT's assistant is put together, and on what its answer depends."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import nn

from crossdistill.methods.fbt.assistant import LocalToGlobal, teacher_is_front
from crossdistill.methods.fbt.fbt import FBT
from crossdistill.staged import StagedModel
from crossdistill.testing import total
from crossdistill.testing.tiny_models import SIDE
from fbt.helpers import batch, make

# CNN and attention or MLP in both directions, attention with MLP in both, hybrids, homogeneous.
ALL_PAIRS = [
    ("vit", "cnn"),
    ("mlp", "cnn"),
    ("swin", "cnn"),
    ("cnn", "vit"),
    ("cnn", "mlp"),
    ("cnn", "swin"),
    ("cnn", "distilled"),
    ("vit", "mlp"),
    ("mlp", "vit"),
    ("hybrid", "cnn"),
    ("cnn", "hybrid"),
    ("cnn", "cnn"),
    ("vit", "vit"),
    ("mlp", "mlp"),
]


@pytest.mark.parametrize(("teacher", "student"), ALL_PAIRS)
def test_order_of_front_and_tail(teacher: str, student: str) -> None:
    method = make(teacher, student)
    assert method.teacher_front == (teacher == "cnn" and student != "cnn")
    assert method.front is (method.teacher if method.teacher_front else method.student)
    assert method.tail is not method.front


def test_hybrids_are_ordered_by_what_mixes_positions() -> None:
    def stages(*mixing: str) -> list[Any]:
        return [SimpleNamespace(mixing=tuple(kinds.split())) for kinds in mixing]

    cnn, vit = stages(*["convolution"] * 4), stages(*["attention"] * 4)
    hybrid = stages("convolution", "convolution", "attention", "attention")
    late = stages("convolution", "convolution", "convolution", "attention convolution")
    # (student, teacher): only convolutions before an attention tail make the teacher the front.
    assert teacher_is_front(student=vit, teacher=late) and teacher_is_front(student=late, teacher=cnn)
    assert teacher_is_front(student=hybrid, teacher=cnn)
    assert not teacher_is_front(student=cnn, teacher=late) and not teacher_is_front(student=vit, teacher=hybrid)
    assert not teacher_is_front(student=late, teacher=late) and not teacher_is_front(student=cnn, teacher=cnn)
    assert teacher_is_front(student=vit, teacher=hybrid, tail_stages=2)


def test_front_can_be_chosen() -> None:
    assert make("vit", "cnn", front="teacher").teacher_front
    assert not make("cnn", "vit", front="student").teacher_front


@pytest.mark.parametrize(
    ("channels", "grid", "out_channels", "out_grid", "millions"),
    [
        (256, 14, 384, 14, 1.9),  # ViT-S -> ResNet-18
        (256, 14, 768, 14, 7.3),  # Mixer-B/16 -> ResNet-18
        (96, 14, 384, 14, 1.8),  # ViT-S -> MobileNetV2
        (96, 14, 768, 14, 7.2),  # Mixer-B/16 -> MobileNetV2
        (384, 14, 192, 14, 0.5),  # ConvNeXt-T -> DeiT-T
        (384, 14, 384, 14, 1.9),  # ConvNeXt-T -> ResMLP-S12
        (192, 14, 768, 14, 7.2),  # Mixer-B/16 -> DeiT-T
        (1024, 14, 192, 14, 0.6),  # ResNet-50 -> DeiT-T
        (1024, 14, 384, 14, 2.2),  # ResNet-50 -> ResMLP-S12
    ],
)
def test_size_of_the_block_between_front_and_tail(
    channels: int, grid: int, out_channels: int, out_grid: int, millions: float
) -> None:
    with torch.device("meta"):
        block = LocalToGlobal(channels, (grid, grid), out_channels, (out_grid, out_grid))
    count = sum(p.numel() for p in block.parameters()) / 1e6
    # Within 5 %, or the rounding of the figures, which are given to one decimal.
    assert count == pytest.approx(millions, rel=0.05, abs=0.05)


def test_size_of_the_block_of_a_published_pair() -> None:
    models = [
        StagedModel(timm.create_model(name, num_classes=3), name=name, image_size=224)
        for name in ("resnet18", "deit_tiny_patch16_224")
    ]
    count = sum(p.numel() for p in FBT(*models).local_to_global.parameters()) / 1e6
    assert count == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    ("size", "out_size", "stride"),
    [((14, 14), (7, 7), (2, 2)), ((16, 16), (7, 7), (2, 2)), ((4, 6), (8, 6), (1, 1)), ((9, 4), (3, 5), (3, 1))],
)
def test_block_fits_any_two_grids(size: tuple[int, int], out_size: tuple[int, int], stride: tuple[int, int]) -> None:
    block = LocalToGlobal(10, size, 24, out_size, blocks=2)
    assert block.embedding.kernel_size == block.embedding.stride == stride
    out = block(torch.randn(2, 10, *size))
    assert out.shape == (2, 24, *out_size)


def test_windows_are_at_most_the_grid_and_swins_on_its_own_grids() -> None:
    windows = {
        side: LocalToGlobal(8, (side, side), 32, (side, side)).blocks[0].window_size for side in (1, 3, 7, 14, 16)
    }
    assert windows == {1: (1, 1), 3: (3, 3), 7: (7, 7), 14: (7, 7), 16: (8, 8)}


@pytest.mark.parametrize(("teacher", "student"), ALL_PAIRS)
def test_assistant_owns_the_block_alone(teacher: str, student: str) -> None:
    method = make(teacher, student)
    state = method.state_dict(keep_vars=True)
    storages = [value.data_ptr() for value in state.values() if value.numel()]
    assert len(set(storages)) == len(storages)
    allowed = ("student.", "local_to_global.", "projector.", "feature_scales", "prefix_tokens", "progress")
    assert all(name.startswith(allowed) for name in state)


@pytest.mark.parametrize("prefix", ["mean", "learned", "own"])
@pytest.mark.parametrize(("teacher", "student"), [("vit", "cnn"), ("distilled", "vit"), ("cnn", "vit")])
def test_answer_depends_on_the_front_alone_unless_the_prefix_is_the_owners(
    teacher: str, student: str, prefix: Any
) -> None:
    method = make(teacher, student, prefix=prefix)
    images, other = batch()[0], torch.rand(4, 3, SIDE, SIDE)
    feature = method.front(images).features[method.front_boundary]
    one = method.assist(feature, method.tail(images)).logits
    two = method.assist(feature, method.tail(other)).logits
    assert torch.equal(one, two) == (prefix != "own")
    order = torch.tensor([2, 0, 3, 1])
    permuted = method.assist(feature[order], method.tail(images[order])).logits
    torch.testing.assert_close(permuted, one[order])


def test_prefix_of_a_student_is_learned_and_measured_before_training() -> None:
    method = make("cnn", "vit")
    assert method.prefix == "learned" and isinstance(method.prefix_tokens, nn.Parameter)
    assert make("vit", "cnn").prefix == "mean" and make("mlp", "cnn").prefix == "none"
    images, _ = batch(5)
    method.train()
    method.prepare([images[:3], images[3:]])
    assert method.student.training
    expected = method.student.eval()(images).prefix[-2]
    assert expected is not None
    torch.testing.assert_close(method.prefix_tokens.data, expected.mean(0).data)


@pytest.mark.parametrize("tail_stages", [0, 1, 2, 3])
@pytest.mark.parametrize(("teacher", "student"), [("vit", "cnn"), ("swin", "cnn"), ("cnn", "vit")])
def test_any_split_of_the_stages(teacher: str, student: str, tail_stages: int) -> None:
    method = make(teacher, student, tail_stages=tail_stages, attention_blocks=min(1, tail_stages))
    images, labels = batch()
    feature = method.front(images).features[method.front_boundary]
    assert method.front_boundary == 3 - max(1, tail_stages)
    assistant = method.eval().assist(feature)
    assert len(assistant.features) == tail_stages
    # Also a head that reads a class token must hear of the front.
    assert assistant.logits.std(dim=0).min() > 1e-4
    assert torch.isfinite(total(method(images, labels)))


def test_statistics_of_a_shared_tail_follow_the_students_own_pass_alone() -> None:
    method = make("vit", "cnn", front="teacher")
    alone = copy.deepcopy(method.student)
    images, labels = batch()
    method(images, labels)
    alone(images)
    assert any("running_mean" in name for name, _ in alone.named_buffers())
    for (name, mine), (_, expected) in zip(method.student.named_buffers(), alone.named_buffers(), strict=True):
        assert torch.equal(mine, expected), name
    assert all(m.track_running_stats for m in method.student.modules() if isinstance(m, nn.BatchNorm2d))
