"""Training: one loop for every method, exact checkpoints, evaluation and reports."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from crossdistill.options import TrainingOptions

if TYPE_CHECKING:
    from rich.console import Console


def run(
    options: TrainingOptions, console: "Console | None" = None, given: Collection[str] | None = None
) -> dict[str, Any]:
    """Train a student as `options` say and return what `summary.json` holds; see `crossdistill.train.training.run`."""
    from crossdistill.train import training

    return training.run(options, console, given)
