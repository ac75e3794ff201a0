"""Where the gradient of each of CSKD's terms goes."""

import dataclasses

import pytest
import torch
from torch import Tensor

from crossdistill.methods.cskd import CSKD
from crossdistill.staged import Outputs, StagedModel
from crossdistill.testing import draw_batch, total
from crossdistill.testing.tiny_models import SIDE, tiny_cnn
from cskd.helpers import pair, staged

pytestmark = pytest.mark.filterwarnings("ignore:CSKD. the last map")


def planted(schedule: str = "linear") -> tuple[CSKD, Outputs, Outputs, Outputs]:
    """A 3x5 teacher and a 6x10 student: the student's outputs, the teacher's, and these with a class in one cell."""
    torch.manual_seed(0)
    student = staged("distilled", img_size=(48, 80))
    teacher = StagedModel(tiny_cnn(), name="cnn", image_size=(96, 160))
    method = CSKD(student, teacher, kind="hard", schedule=schedule)
    plain = method.teach(torch.rand(1, 3, 48, 80))
    final = plain.final * 0 + torch.rand(1, plain.final.shape[1], 1, 1)
    plain = dataclasses.replace(plain, final=final, logits=teacher.dense_logits(final).mean((2, 3)))
    other = int(plain.logits.argmin())
    weight = teacher.model.get_classifier().weight
    final = final.clone()
    # As many cells agree on their class, so one must be very sure to change the mean's.
    final[0, :, 1, 3] += 1e4 * (weight[other] - weight.mean(0))
    changed = dataclasses.replace(plain, final=final, logits=teacher.dense_logits(final).mean((2, 3)))
    assert changed.logits.argmax() == other
    return method, student(torch.rand(1, 3, 48, 80)), plain, changed


def at_tokens(loss: Tensor, outputs: Outputs) -> Tensor:
    return torch.autograd.grad(loss, outputs.final, retain_graph=True)[0].norm(dim=1)[0]


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("schedule", ["linear", "quadratic", "cosine"])
def test_a_class_planted_in_one_cell_moves_its_tokens_first_and_all_alike_last(kind: str, schedule: str) -> None:
    method, student, plain, changed = planted(schedule)
    method.kind = kind
    gradient = {}
    for progress in (0.0, 1.0):
        method.progress.fill_(progress)
        losses = [method.spatial_loss(student, teacher) for teacher in (plain, changed)]
        ours, theirs = (torch.autograd.grad(loss, student.final, retain_graph=True)[0] for loss in losses)
        gradient[progress] = (ours - theirs).norm(dim=1)[0]
    cell = torch.zeros(6, 10, dtype=torch.bool)
    cell[2:4, 6:8] = True
    assert (gradient[0.0][cell] > 1e-4).all()
    assert gradient[0.0][~cell].max() == 0
    # At the end every position has the same target; what is left of a difference is that between their own answers.
    assert gradient[1.0].min() > 1e-4
    torch.testing.assert_close(gradient[1.0], gradient[1.0].mean().expand(6, 10), rtol=0.1, atol=0)


def test_without_fusion_the_cell_stays_alone_to_the_end() -> None:
    method, student, plain, changed = planted()
    method.fusion = False
    method.progress.fill_(1.0)
    difference = at_tokens(method.spatial_loss(student, plain) - method.spatial_loss(student, changed), student)
    assert int((difference > 0).sum()) == 4


def test_which_head_learns_from_which_term() -> None:
    method = pair()
    terms = method(torch.rand(2, 3, SIDE, SIDE), torch.tensor([0, 2]))
    own = method.student.model
    reached = {}
    for name, term in terms.items():
        weights = [own.head.weight, own.head_dist.weight, own.patch_embed.proj.weight]
        found = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
        reached[name] = [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in found]
    assert reached == {"labels": [True, False, True], "logits": [False, True, True], "spatial": [False, True, True]}


@pytest.mark.parametrize("kind", ["vit", "distilled"])
def test_class_and_distillation_token_get_no_gradient_from_the_spatial_term(kind: str) -> None:
    method = pair(student=kind)
    tokens = []
    method.student.model.norm.register_forward_hook(lambda module, args, output: tokens.append(output))
    images = torch.rand(2, 3, SIDE, SIDE)
    student = method.student(images)
    gradient = torch.autograd.grad(method.spatial_loss(student, method.teach(images)), tokens[0])[0]
    prefix = method.student.stages[-1].prefix_tokens
    assert gradient[:, :prefix].abs().max() == 0
    assert (gradient[:, prefix:].norm(dim=2) > 0).all()


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_gradients_of_two_half_batches_average_to_the_wholes(kind: str) -> None:
    method = pair(kind=kind, logit_kind=kind)
    method.progress.fill_(0.5)
    images, labels = draw_batch(4)
    gradients = []
    for part in (slice(4), slice(2), slice(2, 4)):
        method.zero_grad()
        total(method(images[part], labels[part])).backward()
        gradients.append([parameter.grad for parameter in method.student.parameters()])
    for whole, first, second in zip(*gradients, strict=True):
        torch.testing.assert_close((first + second) / 2, whole, rtol=1e-4, atol=1e-6)
