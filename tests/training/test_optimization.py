"""The learning rate as a function of the step."""

import pytest
import torch

from crossdistill.options import TrainingOptions
from crossdistill.training.optimization import Schedule


def rates(steps: int = 100, **changes: float) -> list[float]:
    options = TrainingOptions(**changes)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=options.learning_rate)
    schedule = Schedule(optimizer, options, steps, steps_per_epoch=10)
    return [schedule.set(step) for step in range(steps)]


def test_warm_up_peak_and_end_of_the_cosine() -> None:
    values = rates(learning_rate=0.1, min_learning_rate=0.001, warmup_learning_rate=0.01, warmup_epochs=1)
    assert values[0] == pytest.approx(0.01)
    assert max(values) == pytest.approx(0.1, rel=0.05) and values.index(max(values)) == 10
    assert values[-1] == pytest.approx(0.001, rel=0.1)


def test_a_peak_below_the_default_end_does_not_rise() -> None:
    values = rates(learning_rate=1e-6, warmup_epochs=0)
    assert values == pytest.approx([1e-6] * 100)
