"""CAKD's equations by hand, what each term trains, and which pairs it takes."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cakd.helpers import make
from crossdistill.errors import UserCaution, UserError
from crossdistill.methods.cakd.cakd import (
    CAKD,
    ConvolutionProjector,
    attend,
    cakd_loss,
)
from crossdistill.methods.cakd.critic import Discriminator
from crossdistill.staged import StagedModel
from crossdistill.staged.attention import Projections
from crossdistill.testing import draw_batch
from crossdistill.testing.tiny_models import SIDE, TINY, tiny_cnn, tiny_vit

# For terms of untrained models: some are smaller than the absolute tolerance that is PyTorch's default.
RELATIVE: dict[str, Any] = {"rtol": 1e-5, "atol": 0.0}


def patch_tokens(model: StagedModel | None, images: Tensor) -> Tensor:
    """h_T of a ViT as timm's own forward has it: behind the final norm, without the class token."""
    assert model is not None
    return model.model.forward_features((images - model.mean) / model.std)[:, 1:]


def critic_scores(method: CAKD, inputs: Tensor) -> Tensor:
    """D, as a probability."""
    assert isinstance(method.critic, Discriminator)
    return method.critic.score(inputs).sigmoid()


def assert_critic_is_given(method: CAKD, real: Tensor, fake: Tensor) -> None:
    """The teacher's side first: the other way round, the student would learn to differ from the teacher."""
    assert method.critic_batch is not None
    assert not any(part.requires_grad for part in method.critic_batch)
    torch.testing.assert_close(method.critic_batch, (real, fake))


def random_projections(*shape: int, dtype: torch.dtype = torch.float32) -> Projections:
    return Projections(*(torch.randn(shape, dtype=dtype) for _ in range(3)))


def masks(like: Projections, probability: float) -> Projections:
    return Projections(*(torch.rand(part.shape) < probability for part in like))


def softmax_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return (queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[3])).softmax(dim=3) @ values


def test_loss_by_hand() -> None:
    student, teacher = random_projections(2, 2, 6, 4), random_projections(2, 2, 6, 4)
    replaced = masks(student, 0.5)
    mixed = [r * t + ~r * s for r, t, s in zip(replaced, teacher, student, strict=True)]
    attention, relation = cakd_loss(student, teacher, replaced)
    expected = (softmax_attention(*teacher) - softmax_attention(*mixed)).square().mean()
    torch.testing.assert_close(attention, expected)
    v_s, v_t = student.values, teacher.values
    expected = ((v_t @ v_t.transpose(2, 3) - v_s @ v_s.transpose(2, 3)) / 2).square().mean()
    torch.testing.assert_close(relation, expected)


def test_replacing_nothing_or_all() -> None:
    student, teacher = random_projections(1, 2, 5, 4), random_projections(1, 2, 5, 4)
    own, _ = cakd_loss(student, teacher, masks(student, 0.0))
    torch.testing.assert_close(own, F.mse_loss(attend(student), attend(teacher)))
    none, relation = cakd_loss(student, teacher, masks(student, 1.1))
    assert none == 0
    # The Gram term sees the student's own values whatever is replaced.
    assert relation == cakd_loss(student, teacher, masks(student, 0.0))[1] > 0


def test_gradient_matches_finite_differences() -> None:
    student, teacher = (random_projections(1, 1, 3, 2, dtype=torch.float64) for _ in range(2))
    replaced = masks(student, 0.5)
    parts = [part.requires_grad_() for part in student]
    assert torch.autograd.gradcheck(lambda *p: cakd_loss(Projections(*p), teacher, replaced), parts)


def test_replacement_is_drawn_for_each_element_in_training_only() -> None:
    method = make(replacement_probability=0.3)
    drawn = method.replaced(random_projections(8, 2, 64, 16))
    for mask in drawn:
        assert mask.float().mean() == pytest.approx(0.3, abs=0.02)
    assert not torch.equal(drawn.queries, drawn.keys) and not torch.equal(drawn.keys, drawn.values)
    assert not any(mask.any() for mask in method.eval().replaced(random_projections(1, 2, 4, 4)))


def test_the_tap_is_the_deepest_stage_that_loses_no_position() -> None:
    student = StagedModel(tiny_cnn(), name="cnn", image_size=224)
    teacher = StagedModel(tiny_vit(img_size=224, patch_size=16), name="vit", image_size=224)
    sizes = [stage.size for stage in student.stages]
    assert sizes[CAKD(student, teacher).stage] == (14, 14)
    # No stage is as fine as a grid of 32x32: the first is the finest.
    small = StagedModel(tiny_cnn(), name="cnn", image_size=64)
    finer = StagedModel(tiny_vit(img_size=64, patch_size=2), name="vit", image_size=64)
    with pytest.warns(UserCaution, match="layer1 of cnn, stage 1 of 4.*--stem_stride"):
        assert CAKD(small, finer).stage == 0
    assert CAKD(student, teacher, student_stage=1).stage == 0
    with pytest.raises(UserError, match="stages 1 to 4"):
        CAKD(student, teacher, student_stage=5)


@pytest.mark.parametrize("teacher", ["cnn", "mlp"])
def test_teachers_without_attention_are_refused(teacher: str) -> None:
    with pytest.raises(UserError, match=f"{teacher} has no attention.*a method for any pair"):
        make(teacher)


def test_a_teacher_without_a_head_is_enough_for_the_paper() -> None:
    student = StagedModel(tiny_cnn(), name="cnn", image_size=SIDE)
    teacher = StagedModel(tiny_vit(num_classes=0), name="backbone", image_size=SIDE)
    assert all(torch.isfinite(term) for term in CAKD(student, teacher)(*draw_batch()).values())
    for settings in ({"variant": "released"}, {"logit_weight": 1.0}):
        with pytest.raises(UserError, match="backbone has no head"):
            CAKD(student, teacher, **settings)  # type: ignore[arg-type]


# Which part is trained by which term; the critic by none of them.
FLOWS = {
    "paper": {
        "labels": {"student"},
        "attention": {"student", "pca_projector"},
        "gram": {"student", "pca_projector"},
        "gl": {"student", "gl_projector"},
        "adversarial": {"student", "gl_projector"},
    },
    "released": {
        "labels": {"student"},
        "attention": {"student", "pca_projector"},
        "gram": {"student", "pca_projector"},
        "adversarial": {"student", "pca_projector"},
        "gl": {"student", "gl_projector"},
        "logits": {"student"},
        "pooled": {"student", "pooled_projector"},
    },
}


@pytest.mark.parametrize(("variant", "term"), [(variant, term) for variant in FLOWS for term in FLOWS[variant]])
def test_gradient_flow(variant: str, term: str) -> None:
    method = make(variant=variant)
    method.progress.fill_(0.5)
    terms = method(*draw_batch())
    assert set(terms) == set(FLOWS[variant])
    terms[term].backward()
    reached = {
        name.split(".")[0]
        for name, parameter in method.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    assert reached == FLOWS[variant][term]


def test_gram_trains_the_values_alone() -> None:
    method = make()
    method(*draw_batch())["gram"].backward()
    projector = method.pca_projector
    assert isinstance(projector, ConvolutionProjector)
    assert projector.values.weight.grad is not None and projector.values.weight.grad.abs().sum() > 0
    for part in (projector.queries, projector.keys):
        assert part.weight.grad is None or not part.weight.grad.any()


def test_every_part_can_be_switched_off() -> None:
    weights = ["attention_weight", "gram_weight", "gl_weight", "adversarial_weight"]
    off: dict[str, Any] = dict.fromkeys(weights, 0.0)
    method = make(**off, view_probability=0.0)
    images, labels = draw_batch()
    terms = method(images, labels)
    assert all(terms[name] == 0 for name in ("attention", "gram", "gl", "adversarial"))
    torch.testing.assert_close(terms["labels"], F.cross_entropy(method.student(images).logits, labels))
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


def test_paper_terms_by_hand() -> None:
    method = make().eval()
    images, labels = draw_batch()
    terms = method(images, labels)
    student, taken = method.student(images), method.tap(images).attention
    feature, projector = student.features[method.stage], method.pca_projector
    assert isinstance(projector, ConvolutionProjector)
    layers = (projector.queries, projector.keys, projector.values)
    q, k, v = (layer(feature).reshape(len(images), 2, 16, -1).transpose(2, 3) for layer in layers)  # 2 heads of 16
    attention = softmax_attention(q, k, v) - softmax_attention(*taken)  # nothing is replaced outside of training
    gram = (v @ v.transpose(2, 3) - taken.values @ taken.values.transpose(2, 3)) / 4
    tokens, teacher_tokens = method.gl_projector(feature), patch_tokens(method.teacher, images)
    expected = {
        "labels": F.cross_entropy(student.logits, labels),
        "attention": attention.square().mean(),
        "gram": 0.02 * gram.square().mean(),
        "gl": (tokens - teacher_tokens).square().mean(),
        "adversarial": -0.1 * critic_scores(method, tokens).log().mean(),
    }
    torch.testing.assert_close(terms, expected, **RELATIVE)
    assert_critic_is_given(method, real=teacher_tokens, fake=tokens)


def test_released_terms_by_hand() -> None:
    method = make(variant="released").eval()
    method.progress.fill_(0.5)  # w(60) = 0.2
    images, labels = draw_batch()
    terms = method(images, labels)
    teacher = method.tap(images)
    taken = teacher.attention
    student = method.student(images)
    feature = student.features[method.stage]
    heads, width = 16, feature.shape[1]
    positions = feature.flatten(2).transpose(1, 2)
    q, k, v = (
        part.reshape(len(images), -1, heads, width // heads).transpose(1, 2)
        for part in (positions @ method.pca_projector.linear.weight.T).split(width, dim=2)  # type: ignore
    )
    d_s, d_t = width // heads, taken.queries.shape[3]
    logits_s = (q @ k.transpose(2, 3) * d_s**-0.5).mean(dim=1, keepdim=True)
    logits_t = (taken.queries @ taken.keys.transpose(2, 3) * d_t**-0.5).mean(dim=1, keepdim=True)
    gram_s = (v @ v.transpose(2, 3) * d_s**-0.5).mean(dim=1)
    gram_t = (taken.values @ taken.values.transpose(2, 3)).mean(dim=1)
    expected = {
        "labels": F.cross_entropy(student.logits, labels),
        "attention": 0.2 * 0.2 * (logits_s - logits_t).square().mean(),
        "gram": 0.2 * 0.05 * (gram_s - gram_t).square().mean(),
        "gl": 0.2 * 0.05 * (method.gl_projector(feature) - patch_tokens(method.teacher, images)).square().mean(),
        "logits": 0.2 * (student.logits - teacher.logits).square().mean(),
        "pooled": 0.2 * (method.pooled_projector(student.pooled) - teacher.pooled).square().mean(),
        "adversarial": -0.2 * critic_scores(method, logits_s).log().mean(),
    }
    torch.testing.assert_close(terms, expected, **RELATIVE)
    assert_critic_is_given(method, real=logits_t, fake=logits_s)


def test_released_ramp() -> None:
    method = make(variant="released")
    assert method.progress_unit == "epoch" and method.critic_every == 1 and make().critic_every == 5
    for epoch, expected in ((0, 0.0), (25, 0.0), (30, 0.1), (35, 0.2), (119, 0.2)):
        method.progress.fill_(epoch / 120)
        assert method.ramp().item() == pytest.approx(expected, abs=1e-6)


# In bf16 too: on the CPU, PyTorch resamples in single precision only.
@pytest.mark.filterwarnings("ignore::crossdistill.errors.UserCaution")
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (48, 48)])
def test_sizes_and_grids_that_differ_train(size: tuple[int, int], bf16: bool) -> None:
    student = StagedModel(tiny_cnn(), name="cnn", image_size=size)
    teacher = StagedModel(tiny_vit(img_size=(40, 56)), name="vit", image_size=(40, 56))
    method = CAKD(student, teacher)
    method.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        terms = method(torch.rand(2, 3, *size), torch.tensor([0, 2]))
    assert method.tap.size == (5, 7) != student.stages[method.stage].size
    assert all(torch.isfinite(term) for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    gradients = [parameter.grad for parameter in method.parameters() if parameter.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_batch_of_one_and_soft_labels(variant: str) -> None:
    student = StagedModel(TINY["swin"](3), name="swin", image_size=SIDE)
    teacher = StagedModel(TINY["vit"](3), name="vit", image_size=SIDE)
    method = CAKD(student, teacher, variant=variant).train()  # type: ignore[arg-type]
    images, labels = draw_batch(1)
    for given in (labels, F.one_hot(labels, 3).float() * 0.9 + 0.1 / 3):
        assert all(torch.isfinite(term) for term in method(images, given).values())


@pytest.mark.slow
def test_released_step_compiles() -> None:
    method = make(variant="released")
    method.progress.fill_(0.5)
    images, labels = draw_batch()
    expected = torch.stack(list(method(images, labels).values())).sum()
    torch._dynamo.reset()
    compiled = torch.compile(method, backend="aot_eager")
    torch.testing.assert_close(torch.stack(list(compiled(images, labels).values())).sum(), expected)
