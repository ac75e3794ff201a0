"""CAKD on tiny models."""

import torch

from crossdistill.methods.cakd.cakd import CAKD
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import SIDE, TINY


def make(teacher: str = "vit", student: str = "cnn", **kwargs: object) -> CAKD:
    models = [StagedModel(TINY[kind](3), name=kind, image_size=SIDE) for kind in (student, teacher)]
    method = CAKD(*models, **kwargs)  # type: ignore[arg-type]
    method.train()
    return method


def step_critic(method: CAKD, optimizer: torch.optim.Optimizer) -> None:
    assert method.critic is not None and method.critic_batch is not None
    optimizer.zero_grad()
    method.critic(*method.critic_batch).backward()
    optimizer.step()
