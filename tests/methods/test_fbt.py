"""FBT: its loss by hand, how the assistant is put together, who gets which gradient, and what every method promises."""

import copy
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import test_contract
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossdistill.distiller import Distiller
from crossdistill.errors import UserError
from crossdistill.methods.fbt.assistant import LocalToGlobal, teacher_is_front
from crossdistill.methods.fbt.fbt import FBT, PAIRS, info_nce_loss
from crossdistill.staged import StagedModel
from tiny_models import SIDE, TINY

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


def staged(kind: str, side: int | tuple[int, int] = SIDE, **kwargs: object) -> StagedModel:
    return StagedModel(TINY[kind](3, **kwargs), name=kind, image_size=side)


def make(teacher: str, student: str, training: bool = True, **hyperparameters: Any) -> FBT:
    torch.manual_seed(0)
    method = FBT(staged(student), staged(teacher), **hyperparameters)
    method.train(training)
    return method


def batch(size: int = 4, side: tuple[int, int] = (SIDE, SIDE)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(size, 3, *side, generator=generator), torch.arange(size) % 3


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


# The equations


def test_info_nce_by_hand() -> None:
    student, teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    # Cosines: 1 and 1/sqrt(2); 0 and 1/sqrt(2). The vectors' lengths play no role.
    a, b = torch.tensor([1.0, 0.5**0.5]) / 0.5, torch.tensor([0.0, 0.5**0.5]) / 0.5
    expected = -(a.log_softmax(0)[0] + b.log_softmax(0)[1]) / 2
    torch.testing.assert_close(info_nce_loss(student, teacher, 0.5), expected)


def test_info_nce_takes_further_negatives_and_leading_dimensions() -> None:
    student, teacher = torch.randn(2, 3, 5), torch.randn(2, 7, 5)
    logits = F.normalize(student, dim=2) @ F.normalize(teacher, dim=2).transpose(1, 2) / 0.1
    expected = F.cross_entropy(logits.flatten(0, 1), torch.arange(3).repeat(2))
    torch.testing.assert_close(info_nce_loss(student, teacher, torch.tensor(0.1)), expected)


def test_other_feature_losses_by_hand() -> None:
    images, labels = batch()
    method = make("vit", "cnn", feature_loss="mse", training=False)
    student, teacher = method.student(images).final, method.teach(images).final
    anchors, keys = method.projector(student.mean(dim=(2, 3))), teacher.mean(dim=(2, 3))
    terms = method(images, labels)
    torch.testing.assert_close(terms["teacher_to_student_features"], (anchors - keys).square().mean())

    # The student's 1x1 map is averaged already; a larger image gives it 2x2 positions.
    method = FBT(staged("cnn", 64), staged("vit", 64, img_size=64), smoothing="per_position").eval()
    images = torch.rand(3, 3, 64, 64)
    student, teacher = method.student(images).final, method.teach(images).final
    assert student.shape[2:] == (2, 2) and teacher.shape[2:] == (8, 8)
    assert method.feature_scales is not None
    losses = []
    for row in range(2):
        for column in range(2):
            theirs = teacher[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].mean(dim=(2, 3))
            ours = method.projector(student[:, :, row, column])
            cosines = F.normalize(ours, dim=1) @ F.normalize(theirs, dim=1).T
            losses.append(F.cross_entropy(cosines / 0.07, torch.arange(3)))
    terms = method(images, labels[:3])
    torch.testing.assert_close(terms["teacher_to_student_features"], torch.stack(losses).mean())


def test_info_nce_gradient_matches_finite_differences() -> None:
    student, teacher = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(info_nce_loss, (student, teacher, temperature))


def test_loss_is_the_sum_of_three_pairs_by_hand() -> None:
    method = make("vit", "cnn", gamma=1.0, temperature=2.0, prefix="own", training=False)
    images, labels = batch()
    terms = method(images, labels)
    student, teacher = method.student(images), method.teach(images)
    assistant = method.assist(images, student.features[-2], teacher)
    assert list(terms) == ["labels"] + [f"{pair}_{kind}" for pair in PAIRS for kind in ("features", "logits")]
    torch.testing.assert_close(terms["labels"], F.cross_entropy(student.logits, labels))
    expected = 4 * F.cross_entropy(student.logits / 2, (assistant.logits / 2).softmax(1))
    torch.testing.assert_close(terms["assistant_to_student_logits"], expected)
    pooled = {name: o.final.mean((2, 3)) for name, o in (("t", teacher), ("f", assistant), ("s", student))}
    projected = method.projector(pooled["s"])
    torch.testing.assert_close(terms["teacher_to_student_features"], info_nce_loss(projected, pooled["t"], 0.07))
    torch.testing.assert_close(terms["assistant_to_student_features"], info_nce_loss(projected, pooled["f"], 0.07))
    torch.testing.assert_close(terms["teacher_to_assistant_features"], info_nce_loss(pooled["f"], pooled["t"], 0.07))


# The assistant


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


@pytest.mark.parametrize("prefix", ["mean", "learned", "initial", "own"])
@pytest.mark.parametrize(("teacher", "student"), [("vit", "cnn"), ("distilled", "vit"), ("cnn", "vit")])
def test_answer_depends_on_the_front_alone_unless_the_prefix_is_the_owners(
    teacher: str, student: str, prefix: Any
) -> None:
    method = make(teacher, student, prefix=prefix)
    images, other = batch()[0], torch.rand(4, 3, SIDE, SIDE)
    feature = method.front(images).features[method.front_boundary]
    one = method.assist(images, feature, method.tail(images)).logits
    two = method.assist(other, feature, method.tail(other)).logits
    assert torch.equal(one, two) == (prefix != "own")
    order = torch.tensor([2, 0, 3, 1])
    permuted = method.assist(images, feature[order], method.tail(images[order])).logits
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
    assistant = method.eval().assist(images, feature)
    assert len(assistant.features) == tail_stages
    # Also a head that reads a class token must hear of the front.
    assert assistant.logits.std(dim=0).min() > 1e-4
    assert torch.isfinite(total(method(images, labels)))


@pytest.mark.parametrize(("teacher", "student"), [("vit", "cnn"), ("cnn", "vit"), ("mlp", "cnn")])
def test_images_need_not_be_square(teacher: str, student: str) -> None:
    def model(kind: str) -> StagedModel:
        return staged(kind, side=(32, 64), **({} if kind == "cnn" else {"img_size": (32, 64)}))

    method = FBT(model(student), model(teacher))
    assert torch.isfinite(total(method(*batch(2, (32, 64)))))
    method.smoothing = "per_position"
    assert torch.isfinite(total(method(*batch(2, (32, 64)))))


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


def test_statistics_of_a_shared_tail_with_initial_tokens() -> None:
    # A ViT with a class token behind a stem that has batch norms.
    shape = {"embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 64}
    student = timm.create_model("vit_small_resnet26d_224", num_classes=3, **shape)
    staged_student = StagedModel(student, name="hybrid", image_size=64)
    teacher = StagedModel(TINY["cnn"](3), name="cnn", image_size=64)
    method = FBT(staged_student, teacher, front="teacher", prefix="initial").train()
    alone = copy.deepcopy(staged_student)
    images, labels = batch(4, (64, 64))
    method(images, labels)
    alone(images)
    for (name, mine), (_, expected) in zip(staged_student.named_buffers(), alone.named_buffers(), strict=True):
        assert torch.equal(mine, expected), name


def test_a_tail_without_segments_is_refused_by_name() -> None:
    # XCiT's blocks are given the grid's height and width.
    xcit = timm.create_model("xcit_nano_12_p8_224", num_classes=3, depth=4)
    teacher = StagedModel(xcit, name="xcit", image_size=SIDE)
    with pytest.raises(UserError, match="xcit cannot be run so"):
        FBT(staged("cnn"), teacher)
    assert torch.isfinite(total(FBT(staged("cnn"), teacher, front="teacher")(*batch())))


def test_wrong_splits_and_temperatures_are_refused() -> None:
    with pytest.raises(UserError, match="cnn has 4 stages"):
        make("vit", "cnn", tail_stages=4)
    with pytest.raises(UserError, match="feature_temperature"):
        make("vit", "cnn", feature_temperature=0.0)


# Who learns what

PARTS: dict[str, Callable[[FBT], nn.Module]] = {
    "student front": lambda m: m.student.model.layer2,
    "student tail": lambda m: m.student.model.layer4,
    "student head": lambda m: m.student.model.fc,
    "block": lambda m: m.local_to_global,
    "projector": lambda m: m.projector,
}
# Student CNN, teacher ViT.
GRADIENTS = {
    "labels": {"student front", "student tail", "student head"},
    "teacher_to_student_features": {"student front", "student tail", "projector"},
    "teacher_to_student_logits": {"student front", "student tail", "student head"},
    "teacher_to_assistant_features": {"student front", "block"},
    "teacher_to_assistant_logits": {"student front", "block"},
    "assistant_to_student_features": {"student front", "student tail", "projector"},
    "assistant_to_student_logits": {"student front", "student tail", "student head"},
}


def receivers(method: FBT, term: Tensor, parts: dict[str, Callable[[FBT], nn.Module]]) -> set[str]:
    method.zero_grad(set_to_none=True)
    term.backward()
    moved = set()
    for name, part in parts.items():
        if any(p.grad is not None and p.grad.abs().sum() > 0 for p in part(method).parameters()):
            moved.add(name)
    return moved


@pytest.mark.parametrize("name", GRADIENTS)
def test_who_receives_gradient_from_a_term(name: str) -> None:
    method = make("vit", "cnn")
    assert receivers(method, method(*batch())[name], PARTS) == GRADIENTS[name]
    assert method.teacher is not None and all(p.grad is None for p in method.teacher.parameters())


def test_gradient_of_a_student_tail() -> None:
    parts: dict[str, Callable[[FBT], nn.Module]] = {
        "front": lambda m: m.student.model.blocks[0],
        "tail": lambda m: m.student.model.blocks[-1],
        "head": lambda m: m.student.model.head,
        "block": lambda m: m.local_to_global,
    }
    method = make("cnn", "vit")
    assert receivers(method, method(*batch())["teacher_to_assistant_logits"], parts) == {"tail", "head", "block"}
    assert receivers(method, method(*batch())["assistant_to_student_logits"], parts) == {"front", "tail", "head"}


def test_without_detaching_the_assistant_learns_from_the_student_too() -> None:
    method = make("vit", "cnn", detach_source=False)
    for kind in ("features", "logits"):
        assert "block" in receivers(method, method(*batch())[f"assistant_to_student_{kind}"], PARTS)


ABLATIONS: list[dict[str, Any]] = [
    {"tail_stages": 0, "attention_blocks": 0},
    {"tail_stages": 0},
    {"teacher_assistant_weight": 0.0},
    {"assistant_student_weight": 0.0},
    {"teacher_student_weight": 0.0},
    {"feature_weight": 0.0},
    {"logit_weight": 0.0},
    {"feature_loss": "mse"},
    {"smoothing": "per_position"},
    {"feature_loss": "mse", "smoothing": "per_position"},
    {"symmetric": True, "detach_source": False, "assistant_label_weight": 1.0, "attention_blocks": 2},
    {"prefix": "own"},
    {"prefix": "initial"},
    {"assistant_start": 0.5},
]


@pytest.mark.parametrize("changes", ABLATIONS, ids=str)
@pytest.mark.parametrize(("teacher", "student"), [("vit", "cnn"), ("cnn", "vit")])
def test_every_switch_leaves_finite_terms_and_every_parameter_in_the_step(
    teacher: str, student: str, changes: dict[str, Any]
) -> None:
    method = make(teacher, student, **changes)
    terms = method(*batch())
    assert all(torch.isfinite(term) and term.shape == () for term in terms.values())
    total(terms).backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    for pair in PAIRS:
        source, learner = pair.split("_to_")
        if changes.get(f"{source}_{learner}_weight") == 0:
            assert terms[f"{pair}_features"] == 0 and terms[f"{pair}_logits"] == 0
    for kind in ("feature", "logit"):
        if changes.get(f"{kind}_weight") == 0:
            assert all(term == 0 for name, term in terms.items() if name.endswith(f"_{kind}s"))


def test_assistant_starts_to_teach_when_told() -> None:
    method = make("vit", "cnn", assistant_start=0.5, training=False)
    assert method(*batch())["assistant_to_student_logits"] == 0
    method.progress.fill_(0.5)
    assert method(*batch())["assistant_to_student_logits"] > 0


def test_temperature_is_learnt_and_bounded() -> None:
    method = make("vit", "cnn")
    assert method.feature_scales is not None
    with torch.no_grad():
        method.feature_scales.fill_(9.0)
    total(method(*batch())).backward()
    torch.testing.assert_close(method.feature_scales.data.exp(), torch.full((3,), 100.0))
    assert method.feature_scales.grad is not None and (method.feature_scales.grad != 0).all()


def test_the_assistant_learns() -> None:
    method = make("vit", "cnn", label_weight=0.0)
    images, labels = batch(8)
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    losses = []
    for _ in range(30):
        term = method(images, labels)["teacher_to_assistant_features"]
        optimizer.zero_grad()
        term.backward()
        optimizer.step()
        losses.append(term.item())
    assert losses[-1] < 0.5 * losses[0]


# Validation


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


# What every method promises

CHECKS = [
    test_contract.test_terms_are_finite_scalars_and_reach_every_trainable_parameter,
    test_contract.test_teacher_stays_in_eval_mode_and_unchanged,
    test_contract.test_same_seed_same_loss_and_state_dict_round_trip,
]


@pytest.mark.parametrize(("teacher", "student"), ALL_PAIRS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract_on_pairs(check: Callable[..., None], teacher: str, student: str) -> None:
    check("fbt", teacher, student)


@pytest.mark.parametrize("mode", ["one image", "soft labels"])
def test_contract_on_batches(mode: str) -> None:
    test_contract.test_batch_of_one_and_soft_labels("fbt", mode)


def test_contract_on_numbers() -> None:
    test_contract.test_bf16_autocast_is_near_float32("fbt")
    test_contract.test_steps_in_bf16_leave_finite_gradients("fbt")
    test_contract.test_extra_parameters_are_what_the_student_does_not_own("fbt")


@pytest.mark.parametrize(("teacher", "student"), [("vit", "cnn"), ("cnn", "vit")])
def test_contract_on_compilation(teacher: str, student: str) -> None:
    test_contract.test_compiled_step_gives_the_same_loss("fbt", teacher, student)


def test_compiled_step_with_a_shared_tail_that_has_batch_norm() -> None:
    def one() -> Distiller:
        return make("vit", "cnn", front="teacher")

    eager, other = one(), one()
    torch._dynamo.reset()
    compiled = torch.compile(other, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(total(compiled(*batch())), total(eager(*batch())), rtol=1e-4, atol=1e-5)
    for (name, mine), (_, expected) in zip(eager.named_buffers(), other.named_buffers(), strict=True):
        torch.testing.assert_close(mine, expected, msg=name)


# Two processes: each has half of the batch, and the gradient is that of the whole.

HALF_A_BATCH = """
import sys
import torch, torch.distributed as dist
from test_fbt import batch, make, total

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2)
method = make("cnn", "vit", symmetric=True, detach_source=False)
images, labels = batch(6)
total(method(images[3 * rank : 3 * rank + 3], labels[3 * rank : 3 * rank + 3])).backward()
gradients = {}
for name, parameter in method.named_parameters():
    if parameter.requires_grad:
        dist.all_reduce(parameter.grad)
        gradients[name] = parameter.grad / 2
if rank == 0:
    torch.save(gradients, sys.argv[3])
dist.barrier()
dist.destroy_process_group()
"""


def test_two_processes_have_the_gradient_of_one(tmp_path: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    here = os.path.dirname(__file__)
    paths = os.pathsep.join([here, os.path.dirname(here), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    saved = tmp_path / "gradients.pt"
    commands = [[sys.executable, "-c", HALF_A_BATCH, str(rank), address, str(saved)] for rank in (0, 1)]
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    method = make("cnn", "vit", symmetric=True, detach_source=False)
    total(method(*batch(6))).backward()
    gradients = torch.load(saved, weights_only=True)
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)
