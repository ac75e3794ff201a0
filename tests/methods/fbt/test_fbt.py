"""FBT's loss by hand, its switches, what its models and options must be."""

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F

from crossdistill.distiller import Distiller
from crossdistill.errors import UserError
from crossdistill.methods.fbt.fbt import FBT, PAIRS, info_nce_loss
from crossdistill.staged import StagedModel
from crossdistill.testing import total
from crossdistill.testing.tiny_models import SIDE
from fbt.helpers import batch, make, staged


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
    student, teacher = method.student(images).pooled, method.teach(images).pooled
    anchors, keys = method.projector(student), teacher
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
    assistant = method.assist(student.features[-2], teacher)
    assert list(terms) == ["labels"] + [f"{pair}_{kind}" for pair in PAIRS for kind in ("features", "logits")]
    torch.testing.assert_close(terms["labels"], F.cross_entropy(student.logits, labels))
    expected = 4 * F.cross_entropy(student.logits / 2, (assistant.logits / 2).softmax(1))
    torch.testing.assert_close(terms["assistant_to_student_logits"], expected)
    pooled = {name: outputs.pooled for name, outputs in (("t", teacher), ("f", assistant), ("s", student))}
    projected = method.projector(pooled["s"])
    torch.testing.assert_close(terms["teacher_to_student_features"], info_nce_loss(projected, pooled["t"], 0.07))
    torch.testing.assert_close(terms["assistant_to_student_features"], info_nce_loss(projected, pooled["f"], 0.07))
    torch.testing.assert_close(terms["teacher_to_assistant_features"], info_nce_loss(pooled["f"], pooled["t"], 0.07))


@pytest.mark.parametrize(("teacher", "student"), [("vit", "cnn"), ("cnn", "vit"), ("mlp", "cnn")])
def test_images_need_not_be_square(teacher: str, student: str) -> None:
    def model(kind: str) -> StagedModel:
        return staged(kind, side=(32, 64), **({} if kind == "cnn" else {"img_size": (32, 64)}))

    method = FBT(model(student), model(teacher))
    assert torch.isfinite(total(method(*batch(2, (32, 64)))))
    method = FBT(model(student), model(teacher), smoothing="per_position")
    assert torch.isfinite(total(method(*batch(2, (32, 64)))))


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
    {"feature": "map"},
    {"detach_source": False, "assistant_label_weight": 1.0, "attention_blocks": 2},
    {"prefix": "own"},
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


def test_temperature_is_learnt_and_bounded() -> None:
    method = make("vit", "cnn")
    assert method.feature_scales is not None
    with torch.no_grad():
        method.feature_scales.fill_(9.0)
    total(method(*batch())).backward()
    torch.testing.assert_close(method.feature_scales.data.exp(), torch.full((3,), 100.0))
    assert method.feature_scales.grad is not None and (method.feature_scales.grad != 0).all()


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
