"""Hyper-parameters of a study's rows, chosen on held-out training images before their seeds run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from crossdistill.errors import UserError
from crossdistill.options import TrainingOptions
from crossdistill.study.record import Record, write_record
from crossdistill.study.runs import Run, single_run
from crossdistill.study.tune import tune

# No pair can be called so.
_FOLDER = "_tuning"
# Evaluations in a trial, by which hopeless ones are found.
_EVALUATIONS = 4
_LOG_WIDTH = 120


def tune_rows(missing: Sequence[Run], record: Record, folder: Path, console: Console) -> bool:
    """Choose what is not chosen yet, with the same number of trials for every row; whether anything was.

    Each choice is a search of its own, of the first seed's run, which goes on when it was stopped. It is recorded
    before the next one begins.

    Args:
        missing: the runs that are to be made.
        record: of the study; is told what was chosen.
        folder: the study's.
        console: where to report.

    Raises:
        UserError: a row that cannot be tuned, naming it.
    """
    study = record.study
    chosen = False
    for name, options in _searches(missing, record, folder).items():
        output = folder / _FOLDER / name
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.with_name(f"{output.name}.log").open("a") as log:
            try:
                tuned = tune(
                    options,
                    trials=study.tune_trials,
                    search=list(study.tune_search) or None,
                    output=output,
                    study=name,
                    console=Console(file=log, width=_LOG_WIDTH),
                )
            except UserError as error:
                raise UserError(f"{name} cannot be tuned: {error}") from error
        record.tuned[name] = {
            "values": tuned.best.values,
            "trials": study.tune_trials,
            "best": tuned.best.top1,
            "recipe": next((one.top1 for one in tuned.trials if one.number == 0), None),
        }
        write_record(record, folder)
        chosen = True
        console.print(f"{name} tuned: {told(tuned.best.values)}", soft_wrap=True)
    return chosen


def told(values: Mapping[str, Any]) -> str:
    """Hyper-parameters in a line: `temperature 2.31, learning_rate 0.004`."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def _searches(missing: Sequence[Run], record: Record, folder: Path) -> dict[str, TrainingOptions]:
    """Of each `PAIR/ROW` that is to be tuned, the recipe that its search begins with."""
    study = record.study
    searches = {}
    # Controls and other budgets go by the row that they are of.
    for pair, base in dict.fromkeys((run.pair, run.row.base or run.row.name) for run in missing):
        first = single_run(study, pair, study.rows[base], study.seeds[0], folder)
        name = f"{pair}/{base}"
        # A row whose teacher is another row's student is as that row is: it waits for it, and is not tuned.
        if name not in record.tuned and not first.teacher_row:
            epochs = first.options.epochs
            searches[name] = replace(first.options, evaluate_every=max(1, epochs // _EVALUATIONS))
    return searches
