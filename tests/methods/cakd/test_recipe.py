"""CAKD under the published recipe, for a few steps."""

import math
from importlib.resources import files
from typing import Any

import pytest
import torch

from cakd.helpers import step_critic
from crossdistill.data import TensorSource, open_data
from crossdistill.methods.cakd.cakd import CAKD
from crossdistill.models import load_student
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import SIDE, tiny_cnn


def follow_published_recipe(steps: int, **kwargs: Any) -> list[dict[str, float]]:
    """The terms of each step of SGD. The teacher is the packaged one: an untrained one's Gram term is next to nothing
    and diverges with no weight."""
    teacher = load_student(str(files("crossdistill") / "assets" / "fashion_vit.safetensors"))
    student = StagedModel(tiny_cnn(10), name="cnn", image_size=SIDE)
    method = CAKD(student, teacher, student_stage=1, **kwargs)
    method.train()
    data = open_data("fashion-mini").train
    assert isinstance(data, TensorSource)
    images, labels = data.pixels[:96] / 255, data.labels[:96]
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4)
    critic_optimizer = method.critic_optimizer()
    history = []
    for step in range(steps):
        chosen = torch.arange(8 * step, 8 * step + 8) % 96
        terms = method(images[chosen], labels[chosen])
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        if (step + 1) % method.critic_every == 0:
            step_critic(method, critic_optimizer)
        history.append({name: term.item() for name, term in terms.items()})
    return history


@pytest.mark.slow
def test_two_hundred_steps_of_the_published_recipe_stay_stable() -> None:
    history = follow_published_recipe(200)
    # From a weight of 0.05 on it leaps above its start.
    assert max(terms["gram"] for terms in history) == history[0]["gram"]
    for name in ("labels", "attention", "gram", "gl"):
        first, last = (sum(terms[name] for terms in part) for part in (history[:10], history[-10:]))
        assert last < 0.7 * first, name


def test_the_published_weight_of_the_gram_term_diverges() -> None:
    # Why the default is another one.
    assert not math.isfinite(follow_published_recipe(6, gram_weight=1.0)[-1]["gram"])
