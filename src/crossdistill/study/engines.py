"""How runs are executed: in this process one after another, or in worker processes. All engines are called alike."""

import contextlib
import gc
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

from rich.console import Console

from crossdistill.errors import UserError
from crossdistill.options import TrainingOptions
from crossdistill.study.runs import Run
from crossdistill.training import distill
from crossdistill.training.run_folder import RunFolder

# A run that goes on must be the same but for where the teacher's file lies; that its content is the same was checked.
_GIVEN = {field.name for field in fields(TrainingOptions)} - {"teacher_weights"}
_LOG_WIDTH = 120


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        run: which.
        summary: what its `summary.json` holds; empty where it did not come to its end.
        error: why not, in one line.
    """

    run: Run
    summary: dict[str, Any]
    error: str = ""


class Teller(Protocol):
    """Is told what happens, in the process that called the engine."""

    def began(self, run: Run) -> None: ...

    def ended(self, outcome: Outcome) -> None: ...


# Executes the runs, tells of each, and returns what became of them. A run that fails does not stop the others.
# Raises KeyboardInterrupt where it was stopped by SIGINT or SIGTERM, when all runs have written their checkpoints.
Engine = Callable[[Sequence[Run], Teller], list[Outcome]]


def one_after_another(runs: Sequence[Run], teller: Teller) -> list[Outcome]:
    """An engine: in this process."""
    outcomes = []
    for run in runs:
        teller.began(run)
        outcomes.append(execute(run))
        teller.ended(outcomes[-1])
    return outcomes


def finish(options: TrainingOptions, console: Console | None = None) -> dict[str, Any]:
    """The summary of a run that begins, goes on, or is there already."""
    begun = RunFolder(options.output).recipe.exists()
    return distill(replace(options, resume=begun), console, given=_GIVEN)


def execute(run: Run) -> Outcome:
    """Bring a run to its end, with all that it reports in its folder's log."""
    folder = run.folder
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.log.open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            return Outcome(run, finish(run.options, Console(file=log, width=_LOG_WIDTH)))
        except UserError as error:
            print(f"refused: {error}", file=log)
            return Outcome(run, {}, str(error))
        except Exception as error:
            # A defect of a method must not end the others' runs; its traceback is in the log.
            traceback.print_exc(file=log)
            reason = " ".join(str(error).split())
            return Outcome(run, {}, f"{type(error).__name__}: {reason} (see {folder.log})")
        finally:
            # The models of a run refer to themselves through their hooks.
            gc.collect()


def threads_of(jobs: int) -> int:
    """Threads of each of several runs at once on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs)
