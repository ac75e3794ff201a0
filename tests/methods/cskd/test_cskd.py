"""CSKD's terms, the pairs that it takes, precision and compilation."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from crossdistill.errors import UserCaution, UserError
from crossdistill.methods import build_distiller
from crossdistill.methods.cskd import CSKD, cskd_loss
from crossdistill.options import MethodOptions
from crossdistill.staged import StagedModel
from crossdistill.testing import draw_batch, total
from crossdistill.testing.tiny_models import SIDE, tiny_cnn
from cskd.helpers import gentle_cnn, pair, staged

pytestmark = pytest.mark.filterwarnings("ignore:CSKD. the last map")


def test_terms_are_the_equations() -> None:
    method = pair(label_weight=0.3, logit_weight=0.6, spatial_weight=2.0).eval()
    method.progress.fill_(0.5)
    images, labels = torch.rand(3, 3, SIDE, SIDE), torch.tensor([0, 1, 2])
    teacher, student = method.teacher(images), method.student(images)
    dense = method.student.dense_logits(student.final, "distillation")
    local = method.teacher.dense_logits(teacher.final)
    terms = method(images, labels)
    torch.testing.assert_close(terms["labels"], 0.3 * F.cross_entropy(student.head_logits["class"], labels))
    expected = F.cross_entropy(student.head_logits["distillation"], teacher.logits.argmax(1))
    torch.testing.assert_close(terms["logits"], 0.6 * expected)
    torch.testing.assert_close(terms["spatial"], 2 * cskd_loss(dense, local, 0.5, "hard", "linear", 1.0))


def test_soft_terms_and_their_normalisers() -> None:
    images, labels = torch.rand(2, 3, SIDE, SIDE), torch.tensor([0, 1])
    options = {"kind": "soft", "logit_kind": "soft", "temperature": 2.0}
    paper = pair(**options).eval()(images, labels)
    released = pair(**options, variant="released").eval()(images, labels)
    torch.testing.assert_close(released["spatial"], 16 * paper["spatial"])
    torch.testing.assert_close(released["logits"], paper["logits"] / 3)
    hard = [pair(variant=variant).eval()(images, labels)["spatial"] for variant in ("paper", "released")]
    torch.testing.assert_close(*hard)


@pytest.mark.parametrize(("variant", "share"), [("paper", 1.0), ("released", 1 / 3)])
def test_soft_logit_term_is_the_divergence_of_the_student_from_the_teacher(variant: str, share: float) -> None:
    method = pair(logit_kind="soft", temperature=2.0, variant=variant)
    images = torch.rand(1, 3, SIDE, SIDE)
    student, teacher = method.student(images), method.teach(images)
    # Softened by T = 2 these are the probabilities of which the logarithm is taken.
    student.head_logits["distillation"] = 2 * torch.tensor([[0.5, 0.25, 0.25]]).log()
    teacher.logits = 2 * torch.tensor([[0.8, 0.1, 0.1]]).log()
    expected = share * 2**2 * (0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.1 / 0.25))
    assert method.logit_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_a_student_with_one_head_teaches_all_terms_to_it() -> None:
    method = pair(student="vit").eval()
    images = torch.rand(2, 3, SIDE, SIDE)
    teacher, student = method.teach(images), method.student(images)
    expected = F.cross_entropy(student.logits, teacher.logits.argmax(1))
    torch.testing.assert_close(method.logit_loss(student, teacher), expected)


def test_the_patch_tokens_learn_what_the_teacher_says_at_their_place() -> None:
    method = pair(kind="soft").train()
    weight = method.teacher.model.get_classifier().weight
    nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))  # a fresh head says nearly the same everywhere
    images, labels = torch.rand(4, 3, SIDE, SIDE), torch.tensor([0, 1, 2, 0])
    optimizer = torch.optim.AdamW(method.student.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        terms = method(images, labels)
        losses.append(terms["spatial"].item())
        optimizer.zero_grad()
        terms["spatial"].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    teacher = method.teacher_dense_logits(method.teach(images)).argmax(1)
    student = method.student.dense_logits(method.student(images).final, "distillation").argmax(1)
    assert (teacher == student).float().mean() > 0.6


def test_progress_advances_as_asked() -> None:
    assert pair().progress_unit == "epoch"
    assert pair(progress_unit="iteration").progress_unit == "iteration"


@pytest.mark.parametrize(
    ("teacher", "student", "reason"),
    [
        (
            lambda: StagedModel(tiny_cnn(), name="stride32", image_size=32),
            "vit",
            "stride32 has one only.*teacher_im",
        ),
        (lambda: staged("vit"), "distilled", "vit answers from a class token"),
        (lambda: staged("cnn"), "cnn_at_32", "cnn_at_32 has one only.*image_size"),
    ],
)
def test_pairs_that_cannot_be_served_are_refused(teacher: object, student: str, reason: str) -> None:
    small = StagedModel(tiny_cnn(), name="cnn_at_32", image_size=32)
    with pytest.raises(UserError, match=reason):
        CSKD(small if student == "cnn_at_32" else staged(student), teacher())


def test_few_positions_are_warned_of() -> None:
    with pytest.warns(UserCaution, match="last map of swin has only 2x2"):
        pair(teacher="swin")


def test_a_student_without_a_distillation_token_is_warned_of() -> None:
    with pytest.warns(UserCaution, match="vit has no distillation token"):
        pair(student="vit")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair(student="distilled")
        pair(student="mlp")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_compiled_step_gives_the_same_loss(kind: str) -> None:
    method = pair(kind=kind, schedule="cosine").train()
    images, labels = draw_batch()
    method.progress.fill_(0.3)
    expected = total(method(images, labels))
    torch._dynamo.reset()
    compiled = torch.compile(method, backend="aot_eager", fullgraph=False)
    torch.testing.assert_close(total(compiled(images, labels)), expected, rtol=1e-4, atol=1e-5)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    method.progress.fill_(0.8)
    total(compiled(images, labels))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "progress must not recompile"


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_bf16_autocast_is_near_float32(kind: str) -> None:
    method = pair(kind=kind).eval()
    method.progress.fill_(0.5)
    images, labels = draw_batch()
    exact = total(method(images, labels))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = total(method(images, labels))
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.05)


def test_non_square_images_and_other_sizes_than_the_teachers() -> None:
    student = staged("distilled", img_size=(48, 80))
    teacher = StagedModel(gentle_cnn(), name="cnn", image_size=(40, 56))
    method = CSKD(student, teacher)
    assert (student.stages[-1].size, teacher.stages[-1].size) == ((6, 10), (5, 7))
    terms = method(torch.rand(2, 3, 48, 80), torch.tensor([0, 1]))
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in student.parameters())


def test_no_parameter_of_its_own_and_hyperparameters_by_name() -> None:
    kwargs = {"schedule": "cosine", "kind": "soft", "progress_unit": "iteration", "fusion": False}
    method = build_distiller(MethodOptions("cskd", kwargs), staged("distilled"), staged("cnn"))
    assert isinstance(method, CSKD)
    assert method.extra_parameters() == 0
    assert (method.schedule, method.kind, method.progress_unit, method.fusion) == ("cosine", "soft", "iteration", False)
    with pytest.raises(UserError, match="schedule"):
        build_distiller(MethodOptions("cskd", {"schedule": "square"}), staged("distilled"), staged("cnn"))
