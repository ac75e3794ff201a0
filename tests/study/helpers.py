"""A search whose runs are a formula: what is tested is the search."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from crossdistill.options import MethodOptions, ModelOptions, TrainingOptions
from crossdistill.study.trials import Tuned
from crossdistill.study.tune import tune

# Four evaluations, one per epoch.
TOTAL_STEPS = 8
STEPS = (2, 4, 6, 8)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the program may react to it."""


class Runs:
    """In the place of `distill`: calls are kept, and `behave` says what becomes of each.

    Attributes:
        calls: options of each run.
        behave: from the options to the accuracies of the four evaluations, or what it raises.
    """

    def __init__(self, behave: Callable[[TrainingOptions], Sequence[float]]) -> None:
        self.calls: list[TrainingOptions] = []
        self.behave = behave

    def __call__(self, options: TrainingOptions, console: Console, on_evaluation: Any) -> dict[str, Any]:
        self.calls.append(options)
        folder = Path(options.output)
        (folder / "checkpoints").mkdir(parents=True, exist_ok=options.resume)
        (folder / "recipe.yaml").write_text("a run")
        top1 = 0.0
        for step, top1 in zip(STEPS, self.behave(options), strict=False):
            on_evaluation(step, TOTAL_STEPS, {"top1": top1, "images": 40})
        return {"top1": top1}


def best_at_two(options: TrainingOptions) -> list[float]:
    """The nearer the temperature is to 2, the better."""
    return [50 - abs(options.method.kwargs.get("temperature", 4.0) - 2)] * 4


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    pytest.importorskip("optuna")
    made = Runs(best_at_two)
    monkeypatch.setattr("crossdistill.study.search.distill", made)
    monkeypatch.setattr("crossdistill.study.search._WAIT_SECONDS", 0.2)
    # It frees models, of which there are none, and takes longer than all else.
    monkeypatch.setattr("gc.collect", lambda generation=2: 0)
    monkeypatch.setattr("crossdistill.study.storage.HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr("crossdistill.study.storage.GRACE_SECONDS", 2)
    return made


def options_of(**changes: Any) -> TrainingOptions:
    values: dict[str, Any] = {"data": "pets", "student": ModelOptions("test_resnet"), "method": MethodOptions("kd")}
    return TrainingOptions(**(values | changes))


def searched(output: Path, trials: int = 4, **changes: Any) -> Tuned:
    """A search for the temperature alone."""
    arguments = {"search": ["temperature"], "console": Console(quiet=True), "storage_wait": 0.0}
    own = {name: changes.pop(name) for name in ("search", "storage", "study", "minutes", "console") if name in changes}
    return tune(options_of(**changes), trials=trials, output=output, **(arguments | own))
