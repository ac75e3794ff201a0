"""OFA's loss by hand, its limits, and its branches on every kind of student."""

import pytest
import torch
import torch.nn.functional as F

from crossdistill.errors import UserError
from crossdistill.functional import ofa_loss
from crossdistill.methods.ofa import OFA, ConvolutionBranch, TokenBranch
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import SIDE, TINY


def test_loss_by_hand() -> None:
    student = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    teacher = torch.log(torch.tensor([[0.6, 0.3, 0.1]]))
    # Weights: target (0.6 + 1)^2 - 1, others 0.3^2 and 0.1^2.
    expected = -((1.6**2 - 1) * torch.log(torch.tensor(0.5)) + (0.09 + 0.01) * torch.log(torch.tensor(0.25)))
    actual = ofa_loss(student, teacher, torch.tensor([0]), gamma=2.0, temperature=1.0)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-6)


def test_gamma_one_is_cross_entropy_with_the_teacher() -> None:
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    labels = torch.randint(4, (5,))
    expected = F.cross_entropy(student / 2, (teacher / 2).softmax(dim=1))
    torch.testing.assert_close(ofa_loss(student, teacher, labels, gamma=1.0, temperature=2.0), expected)


def test_soft_labels_mean_their_most_likely_class() -> None:
    student, teacher = torch.randn(3, 4), torch.randn(3, 4)
    labels = torch.tensor([2, 0, 1])
    soft = 0.7 * F.one_hot(labels, 4).float() + 0.3 / 4
    assert ofa_loss(student, teacher, soft, 1.5, 1.0) == ofa_loss(student, teacher, labels, 1.5, 1.0)


def test_gradient_matches_finite_differences() -> None:
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 4, dtype=torch.float64)
    labels = torch.tensor([1, 3, 0])
    assert torch.autograd.gradcheck(lambda s: ofa_loss(s, teacher, labels, 1.4, 2.0), (student,))


@pytest.mark.parametrize("kind", TINY)
def test_every_stage_of_every_kind_of_student_has_a_branch(kind: str) -> None:
    student = StagedModel(TINY[kind](5), name=kind, image_size=SIDE)
    teacher = StagedModel(TINY["cnn"](5), name="cnn", image_size=SIDE)
    method = OFA(student, teacher)
    expected = ConvolutionBranch if kind == "cnn" else TokenBranch
    assert len(method.branches) == len(student.stages)
    assert all(isinstance(branch, expected) for branch in method.branches)
    terms = method(torch.rand(2, 3, SIDE, SIDE), torch.tensor([0, 4]))
    assert list(terms) == ["labels", "logits"] + [f"stage{k + 1}" for k in range(len(student.stages))]


def test_published_shapes_of_a_convolutional_branch() -> None:
    # ResNet-18's first stage beside a penultimate width of 512: 64 -> 128 -> 256 -> 512 over three blocks.
    branch = ConvolutionBranch(channels=64, width=512, blocks=3, num_classes=100)
    widths = [block[5].out_channels for block in branch.blocks]
    assert widths == [128, 256, 512]
    assert branch.blocks(torch.rand(1, 64, 56, 56)).shape == (1, 512, 7, 7)


def test_token_branch_merges_down_to_seven() -> None:
    vit = TINY["vit"](5, img_size=112, patch_size=4)
    student = StagedModel(vit, name="vit", image_size=112)
    teacher = StagedModel(TINY["cnn"](5), name="cnn", image_size=112)
    branch = OFA(student, teacher, stages=[1]).branches[0]
    assert isinstance(branch, TokenBranch)
    assert len(branch.merges) == 2
    grid = torch.rand(1, 28, 28, 32)
    for merge in branch.merges:
        grid = merge(grid)
    assert grid.shape[1:3] == (7, 7)


def test_wrong_stages_and_gammas_are_refused() -> None:
    student = StagedModel(TINY["cnn"](5), name="cnn", image_size=SIDE)
    teacher = StagedModel(TINY["vit"](5), name="vit", image_size=SIDE)
    assert OFA(student, teacher, stages=[3, 1, 3]).stages == [0, 2]
    with pytest.raises(UserError, match="stages 1 to 4"):
        OFA(student, teacher, stages=[5])
    with pytest.raises(UserError, match="gamma has 2 values"):
        OFA(student, teacher, gamma=[1.0, 1.0])
