"""What a search found: its trials, the table of them, and the files that a search leaves."""

import csv
import dataclasses
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich import box
from rich.table import Table

from crossdistill.files import written_whole
from crossdistill.options import TrainingOptions

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Trial:
    """One run of a search.

    Attributes:
        number: counted from 0, the recipe as it was given; a trial that took up another one has a number of its own.
        state: "finished", "pruned" (it fell behind), "diverged", "cut off" (another one took it up), "failed",
            "running" or "waiting".
        values: what was searched.
        top1: accuracy on the held-out images in percent, at the end of the training or of the trial; None where it
            was not evaluated.
        seconds: how long it took.
        folder: its run folder, on the machine that ran it.
        images: held-out images.
        note: what ended it early.
    """

    number: int
    state: str
    values: dict[str, Any]
    top1: float | None = None
    seconds: float | None = None
    folder: str = ""
    images: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Tuned:
    """The outcome of a search.

    Attributes:
        options: the recipe with the best trial's values, for a run that is judged on the validation images: nothing is
            held out, and `output` is empty.
        best: the finished trial with the highest accuracy; of equals the first.
        trials: all of them, by number.
    """

    options: TrainingOptions
    best: Trial
    trials: list[Trial] = field(default_factory=list)


def read_trials(study: "optuna.Study") -> list[Trial]:
    """All trials of a study; those that gave way to another worker's are none."""
    everything = study.get_trials(deepcopy=False)
    taken_up = {number: other.number for other in everything for number in cut_off_before(other)}
    return [_read_trial(trial, taken_up.get(trial.number)) for trial in everything if "surplus" not in trial.user_attrs]


def cut_off_before(trial: "optuna.trial.FrozenTrial") -> list[int]:
    """Numbers of the trials that this one takes up, the first one first."""
    return trial.system_attrs.get("retry_history", [])


def _read_trial(trial: "optuna.trial.FrozenTrial", taken_up_by: int | None) -> Trial:
    state, note = trial.state.name.lower(), trial.user_attrs.get("note", "")
    if state == "complete":
        state = "finished"
    elif state == "pruned":
        state = trial.user_attrs["ended"]
    elif state == "fail":
        state = "failed"
        if taken_up_by is not None:
            state, note = "cut off", f"taken up as trial {taken_up_by}"
    return Trial(
        number=trial.number,
        state=state,
        values=dict(trial.params),
        top1=trial.value,
        seconds=trial.duration.total_seconds() if trial.duration is not None else None,
        folder=trial.user_attrs.get("folder", ""),
        images=trial.user_attrs.get("images"),
        note=note,
    )


class SearchFolder:
    """Paths of a search, and the files that it writes.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.trials = self.path / "trials"
        self.table = self.path / "trials.csv"
        self.best = self.path / "best.yaml"

    def run(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.trials / str(number)

    def write_trials(self, trials: list[Trial], names: list[str]) -> None:
        """All trials as a table, one line each."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["trial", "state", "held_out_top1", *names, "seconds", "folder", "note"])
        for trial in trials:
            values = [trial.values.get(name, "") for name in names]
            seconds = "" if trial.seconds is None else round(trial.seconds, 1)
            top1 = "" if trial.top1 is None else round(trial.top1, 4)
            writer.writerow([trial.number, trial.state, top1, *values, seconds, trial.folder, trial.note])
        with written_whole(self.table) as beside:
            beside.write_text(text.getvalue())

    def write_best(self, options: TrainingOptions) -> None:
        """The best recipe, for `crossdistill distill --config`: the output is the run's to say."""
        recipe = dataclasses.asdict(options)
        for name in ("output", "resume", "held_out"):
            del recipe[name]
        with written_whole(self.best) as beside:
            beside.write_text(yaml.safe_dump(recipe, sort_keys=False))


def trials_table(trials: list[Trial], names: list[str], best: Trial | None) -> Table:
    """All trials, the best one marked.

    Args:
        trials: by number.
        names: what was searched.
        best: the best of them.
    """
    caption = None
    if best is not None and best.images and best.top1 is not None:
        share = best.top1 / 100
        error = 100 * math.sqrt(share * (1 - share) / best.images)
        caption = (
            f"on {best.images:,} held-out training images; the best trial's standard error is {error:.1f} points, and "
            "the best of several is flattered: the validation images tell what it is worth"
        )
    table = Table(box=box.SIMPLE, caption=caption)
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for column in ("top-1 %", *names, "seconds"):
        table.add_column(column, justify="right", overflow="fold")
    for trial in trials:
        table.add_row(
            f"{trial.number}{' *' if best is not None and trial.number == best.number else ''}",
            trial.state,
            "" if trial.top1 is None else f"{trial.top1:.2f}",
            *(short(trial.values[name]) if name in trial.values else "(recipe's)" for name in names),
            "" if trial.seconds is None else f"{trial.seconds:.0f}",
        )
    return table


def short(value: Any) -> str:
    """A value in a table: numbers with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
