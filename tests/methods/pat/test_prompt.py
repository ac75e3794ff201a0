"""Prompts inside every kind of teacher, and what they are told."""

import copy

import pytest
import torch
from torch import Tensor

from crossdistill.functional import hcl_loss
from crossdistill.methods.pat.pat import PAT
from crossdistill.methods.pat.projectors import MapToMap
from crossdistill.methods.pat.prompt import PromptBlock, SqueezeExcite
from crossdistill.testing import total
from crossdistill.testing.tiny_models import SIDE, TINY
from pat.helpers import awaken, batch, make


@pytest.mark.parametrize("teacher", TINY)
@pytest.mark.parametrize("feedback", ["previous", "current", "none"])
def test_prompted_teacher_is_the_clean_one_while_the_scale_is_zero(teacher: str, feedback: str) -> None:
    method = make(teacher, "cnn", feedback=feedback).double().train()
    images, labels = torch.rand(2, 3, SIDE, SIDE, dtype=torch.float64), torch.tensor([0, 2])
    for _ in range(2):
        terms = method(images, labels)
    assert terms["regularization"].item() == pytest.approx(0.0, abs=1e-12)
    clean = method.teach(images)
    aligned = method._align(method.student(images))
    features, logits = method._prompted_teacher(images, clean, method._feedback(aligned, clean))
    torch.testing.assert_close(logits, clean.logits, rtol=1e-12, atol=1e-12)
    for k, feature in features.items():
        expected = method.standardizers[str(k)](clean.features[k - 1])
        torch.testing.assert_close(feature, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("teacher", TINY)
def test_prompts_change_the_teacher_and_follow_the_order_of_the_images(teacher: str) -> None:
    method = make(teacher, "cnn").double().train()
    awaken(method)
    images = torch.rand(4, 3, SIDE, SIDE, dtype=torch.float64)
    method(images, torch.tensor([0, 1, 2, 0]))  # fills the memories
    clean = method.teach(images)
    told = method._feedback({}, clean)
    _, logits = method._prompted_teacher(images, clean, told)
    assert (logits - clean.logits).abs().max() > 1e-6
    order = torch.tensor([2, 0, 3, 1])
    told = {k: gap[order] for k, gap in told.items()}
    _, permuted = method._prompted_teacher(images[order], method.teach(images[order]), told)
    torch.testing.assert_close(permuted, logits[order], rtol=1e-9, atol=1e-9)


def test_local_change_of_the_feedback_stays_local_but_for_the_gates() -> None:
    block = PromptBlock(32, (16, 16), (32, 16, 16)).double().eval()
    block.scale.data.fill_(1.0)
    feature = torch.randn(1, 32, 16, 16, dtype=torch.float64)
    told = torch.zeros_like(feature)
    changed = told.clone()
    changed[:, :, 0, 0] = 3.0
    for module in block.modules():
        if isinstance(module, SqueezeExcite):
            torch.nn.init.ones_(module.squeeze.bias)  # so that no hidden unit happens to be off
    moved = (block(feature, changed) - block(feature, told)).abs().amax(dim=(0, 1))
    # The gates read the mean over the map, so other places move, and much less.
    assert moved[0, 0] > 10 * moved[5:, 5:].max() > 0
    for module in block.modules():
        if isinstance(module, SqueezeExcite):
            torch.nn.init.zeros_(module.excite.weight)
    moved = (block(feature, changed) - block(feature, told)).abs().amax(dim=(0, 1))
    # Two 5x5 convolutions one after the other reach four positions far.
    assert moved[4, 4] > 0
    assert moved[5:].max() == 0 and moved[:, 5:].max() == 0


def test_feedback_of_another_shape_is_aligned_position_by_position() -> None:
    aligner = PromptBlock(8, (8, 8), (16, 4, 4)).feedback_aligner
    assert isinstance(aligner, MapToMap)
    told = torch.zeros(2, 16, 4, 4)
    changed = told.clone()
    changed[:, :, 1, 2] = 1.0
    moved = (aligner.eval()(changed) - aligner(told)).abs().amax(dim=(0, 1)) > 0
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:4, 4:6] = True
    assert torch.equal(moved, expected)


def test_class_token_is_left_alone() -> None:
    method = make("vit", "cnn")
    awaken(method)
    feature, prefix = method.teacher.enter(torch.rand(2, 3, SIDE, SIDE))
    prompted, token = method._prompt(1, feature, prefix, torch.randn(2, 32, 4, 4), "NLC")
    assert torch.equal(token, prefix) and not torch.equal(prompted, feature)


def test_previous_feedback_is_the_gap_of_the_last_batch() -> None:
    method = make("vit", "cnn").train()
    awaken(method)
    images, labels = batch()
    clean = method.teach(images)
    assert all(gap.eq(0).all() for gap in method._feedback({}, clean).values())
    terms = method(images, labels)
    gaps = method._feedback({}, clean)
    assert sorted(gaps) == [1, 2, 3, 4]
    for k, gap in gaps.items():
        assert gap.shape == (4, 32, 4, 4) and not gap.requires_grad
        # The first level of the loss is the gap's mean square.
        assert hcl_loss(gap, torch.zeros_like(gap)).item() == pytest.approx(terms[f"stage{k}"].item(), rel=1e-5)
    told = method._feedback({}, method.teach(images[:3]))
    assert all(len(gap) == 3 and gap.eq(0).all() for gap in told.values())
    dealt = method._feedback({}, method.teach(images.repeat(2, 1, 1, 1)), cycle=True)
    assert all(torch.equal(dealt[k], gaps[k].repeat(2, 1, 1, 1)) for k in gaps)
    method.eval()(*batch())
    assert all(torch.equal(gaps[k], gap) for k, gap in method._feedback({}, clean).items())


def test_current_feedback_is_the_gap_of_the_same_images_to_the_clean_teacher() -> None:
    method = make("cnn", "vit", feedback="current")
    assert not method.memories
    images, _ = batch()
    clean = method.teach(images)
    aligned = method._align(method.student(images))
    for k, gap in method._feedback(aligned, clean).items():
        expected = aligned[k] - method.standardizers[str(k)](clean.features[k - 1])
        torch.testing.assert_close(gap, expected.detach())
        assert not gap.requires_grad


def test_training_goes_on_from_a_state_dict_as_if_it_had_not_stopped() -> None:
    method = make("swin", "cnn").train()
    fresh = copy.deepcopy(method)
    awaken(method)
    data = [batch() for _ in range(3)]

    def step(method: PAT, images: Tensor, labels: Tensor) -> float:
        loss = total(method(images, labels))
        method.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in method.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.01 * parameter.grad)
        return loss.item()

    for images, labels in data[:2]:
        step(method, images, labels)
    buffers = dict(method.named_buffers())
    assert method.rank_local and all(name in buffers for name in method.rank_local)
    fresh.load_state_dict(method.state_dict())
    assert step(fresh, *data[2]) == step(method, *data[2])
    before, after = method.state_dict(), fresh.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_prompts_at_some_stages_leave_those_before_them_clean() -> None:
    torch.manual_seed(0)
    method = make("cnn", "vit", prompt_stages=[3, 4], feedback="current").eval()
    awaken(method)
    method.teacher.enter = None  # type: ignore[method-assign, assignment]
    images, _ = batch()
    clean = method.teach(images)
    features, logits = method._prompted_teacher(
        images, clean, method._feedback(method._align(method.student(images)), clean)
    )
    assert all(torch.equal(features[k], method.standardizers[str(k)](clean.features[k - 1])) for k in (1, 2))
    assert not torch.allclose(features[3], method.standardizers["3"](clean.features[2]))
    assert not torch.allclose(logits, clean.logits)
