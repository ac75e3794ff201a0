"""MiniLM's relations token by token, that they are the model's own attention, and which pairs it takes."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from waves import wave

from crossdistill.errors import UserError
from crossdistill.functional import minilm_loss
from crossdistill.methods.minilm import MiniLM, relation_heads
from crossdistill.testing import TINY, draw_batch, staged
from crossdistill.testing.tiny_models import tiny_vit

FOUR_HEADS = functools.partial(tiny_vit, embed_dim=48, num_heads=4)
# Two images, two heads, three tokens; heads of width 2 in the student and 4 in the teacher.
OURS = [wave(12, 2, phase).reshape(2, 2, 3, 2) for phase in (0.1, 0.2)]
THEIRS = [wave(12, 4, phase).reshape(2, 2, 3, 4) for phase in (0.3, 0.4)]


def relations(one: Tensor, other: Tensor) -> list[list[float]]:
    """Rows of R, in plain arithmetic."""
    rows = []
    for image in range(2):
        for head in range(2):
            for token in one[image, head].tolist():
                products = [sum(x * y for x, y in zip(token, key, strict=True)) for key in other[image, head].tolist()]
                powers = [math.exp(product / math.sqrt(len(token))) for product in products]
                rows.append([power / sum(powers) for power in powers])
    return rows


def test_token_by_token() -> None:
    pairs = zip(relations(*THEIRS), relations(*OURS), strict=True)
    expected = sum(t * math.log(t / s) for row in pairs for t, s in zip(*row, strict=True)) / (2 * 2 * 3)
    assert minilm_loss(*OURS, *THEIRS).item() == pytest.approx(expected, rel=1e-10)
    assert minilm_loss(*THEIRS, *THEIRS).item() == pytest.approx(0, abs=1e-12)


def test_gradient_matches_finite_differences() -> None:
    inputs = [part.clone().requires_grad_() for part in OURS]
    assert torch.autograd.gradcheck(lambda one, other: minilm_loss(one, other, *THEIRS), inputs)


def test_relation_heads_cut_the_width_anew() -> None:
    # One token; its heads are side by side in order.
    part = torch.arange(12.0).reshape(1, 4, 1, 3)
    assert relation_heads(part, 2)[0, :, 0].tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert torch.equal(relation_heads(part, 4), part)


def test_relations_of_queries_and_keys_are_the_models_own_attention() -> None:
    teacher, student = staged("vit", TINY["vit"]), staged("student", TINY["vit"])
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    method = MiniLM(student, teacher).eval()
    assert method.variant == "v1"
    seen = []
    for model in (student, teacher):
        block = model.model.blocks[-1].attn
        block.fused_attn = False
        block.attn_drop.register_forward_hook(lambda module, args, weights: seen.append(weights))
    images, labels = draw_batch()
    teacher(images)
    student(images)
    terms = method(images, labels)
    theirs, ours = seen[0], seen[1]
    # 16 patches and the class token.
    assert ours.shape == (4, 2, 17, 17)
    expected = F.kl_div(ours.log(), theirs, reduction="sum") / (4 * 2 * 17)
    torch.testing.assert_close(terms["queries_keys"], expected, rtol=1e-4, atol=1e-6)
    assert set(terms) == {"labels", "queries_keys", "values_values"}


def test_other_numbers_of_heads_and_class_tokens() -> None:
    method = MiniLM(staged("vit", TINY["vit"]), staged("four_heads", FOUR_HEADS))
    assert (method.variant, method.heads) == ("v2", 4)
    assert set(method(*draw_batch())) == {"labels", "queries_queries", "keys_keys", "values_values"}
    with pytest.raises(UserError, match="compares head by head: vit has 2 and four_heads 4"):
        MiniLM(staged("vit", TINY["vit"]), staged("four_heads", FOUR_HEADS), variant="v1")
    with pytest.raises(UserError, match="heads=3 must divide .* of vit is 32"):
        MiniLM(staged("vit", TINY["vit"]), staged("four_heads", FOUR_HEADS), heads=3)
    # A distillation token more: the patches alone.
    assert not MiniLM(staged("distilled", TINY["distilled"]), staged("vit", TINY["vit"])).same_prefix


def test_stored_attention_without_class_tokens_is_taken() -> None:
    teacher = staged("vit", TINY["vit"])
    method = MiniLM(staged("student", TINY["vit"]), teacher).eval()
    images, labels = draw_batch()
    with torch.no_grad():
        patches = method.teacher_tap(images)
    assert patches.attention.queries.shape[2] == 16
    terms = method(images, labels, teacher_outputs=patches)
    assert torch.isfinite(torch.stack(list(terms.values()))).all()
