"""Critics learn, and pass gradient on without keeping any; CAKD's own reaches the student."""

import math
from itertools import pairwise

import pytest
import torch

from cakd.helpers import make, step_critic
from crossdistill.methods.cakd.critic import Discriminator, PatchScore, TokenScore, adversarial_loss
from crossdistill.testing import draw_batch


def test_losses_by_hand() -> None:
    critic = Discriminator(torch.nn.Identity())
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-1.0])
    real_loss = (math.log1p(math.exp(-2)) + math.log(2)) / 2
    fake_loss = math.log1p(math.exp(-1))
    assert critic(real, fake).item() == pytest.approx(real_loss + fake_loss, rel=1e-6)
    assert adversarial_loss(critic, fake).item() == pytest.approx(math.log1p(math.exp(1)), rel=1e-6)


def test_a_critic_separates_two_clouds() -> None:
    critic = Discriminator(TokenScore(16))
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3)
    direction = torch.randn(16)
    for _ in range(150):
        real, fake = torch.randn(4, 16, 16) + direction, torch.randn(4, 16, 16) - direction
        optimizer.zero_grad()
        critic(real, fake).backward()
        optimizer.step()
    right = (critic.score(torch.randn(64, 16) + direction) > 0).float().mean()
    right += (critic.score(torch.randn(64, 16) - direction) < 0).float().mean()
    assert right / 2 > 0.95


@pytest.mark.parametrize(("score", "shape"), [(TokenScore(8), (2, 6, 8)), (PatchScore(), (2, 1, 49, 49))])
def test_gradient_reaches_the_fake_and_stays_out_of_the_critic(score: torch.nn.Module, shape: tuple[int, ...]) -> None:
    critic = Discriminator(score)
    fake = torch.randn(shape, requires_grad=True)
    adversarial_loss(critic, fake).backward()
    assert fake.grad is not None and fake.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in critic.parameters())
    critic(torch.randn(shape), fake.detach()).backward()
    assert all(parameter.grad is not None for parameter in critic.parameters())


@pytest.mark.parametrize("side", [1, 4, 23, 24, 196])
def test_maps_of_any_size_are_scored(side: int) -> None:
    assert PatchScore()(torch.randn(2, 1, side, side)).shape == (2,)


def test_published_size_of_the_map_critic() -> None:
    widths = [8, 16, 32, 64]
    expected = 16 * 8 + 8 + sum(16 * a * b for a, b in pairwise(widths)) + 16 * 64 + 1
    assert sum(parameter.numel() for parameter in PatchScore().parameters()) == expected


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_adversary_reaches_the_student_and_leaves_nothing_in_the_critic(variant: str) -> None:
    method = make(variant=variant)
    method.progress.fill_(0.5)
    method(*draw_batch())["adversarial"].backward()
    gradients = [parameter.grad for parameter in method.student.parameters() if parameter.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in gradients)
    assert method.critic is not None and method.critic_batch is not None
    assert all(parameter.grad is None for parameter in method.critic.parameters())
    critics = {id(parameter) for parameter in method.critic.parameters()}
    assert not any(id(parameter) in critics for parameter in method.parameters())
    assert not any(part.requires_grad for part in method.critic_batch)
    method.critic(*method.critic_batch).backward()
    assert all(parameter.grad is not None for parameter in method.critic.parameters())


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_critic_follows_the_method_to_double_precision(variant: str) -> None:
    method = make(variant=variant).double()
    images, labels = draw_batch()
    assert all(term.dtype == torch.float64 for term in method(images.double(), labels).values())
    step_critic(method, method.critic_optimizer())
