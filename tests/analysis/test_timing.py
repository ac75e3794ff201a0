"""Training steps whose time is measured."""

from collections.abc import Callable

import pytest
import torch

from crossdistill.analysis import timing
from crossdistill.analysis.timing import TrainingStep, seconds_per_step
from crossdistill.distiller import Distiller
from crossdistill.methods import build_distiller
from crossdistill.options import MethodOptions
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import SIDE, tiny_cnn, tiny_vit


def distiller(name: str) -> Distiller:
    student, teacher = StagedModel(tiny_cnn(), image_size=SIDE), StagedModel(tiny_vit(), image_size=SIDE)
    return build_distiller(MethodOptions(name), student, teacher, train_size=100)


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).clone()


def test_a_step_trains_the_student_and_the_critic_where_it_is_due() -> None:
    method = distiller("cakd")
    assert method.critic is not None and method.teacher is not None
    method.critic_every = 2
    step = TrainingStep(method, 4)
    assert step.images.shape == (4, 3, SIDE, SIDE) and method.training
    student, teacher, critic = weights(method.student), weights(method.teacher), weights(method.critic)
    step()
    assert not torch.equal(weights(method.student), student) and torch.equal(weights(method.critic), critic)
    step()
    assert not torch.equal(weights(method.critic), critic) and torch.equal(weights(method.teacher), teacher)
    assert all(parameter.grad is None for parameter in method.parameters())


def test_the_critics_time_counts_as_often_as_its_step_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def seconds(run: Callable[[], None], device: torch.device) -> float:
        run()
        ran.append(run.__name__)
        return {"of_student": 1.0, "of_critic": 10.0}[run.__name__]

    monkeypatch.setattr(timing, "_seconds", seconds)
    method = distiller("cakd")
    method.critic_every = 5
    assert seconds_per_step(method, 2) == 1.0 + 10.0 / 5
    assert ran == ["of_student", "of_critic"]


def test_a_method_without_a_critic_is_timed() -> None:
    assert 0 < seconds_per_step(distiller("kd"), 2) < 60
