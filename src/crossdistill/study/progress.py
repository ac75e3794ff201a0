"""What a study says while it runs: one line for each run that ends, and on a terminal what is under way."""

import json
import threading
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.status import Status

from crossdistill.study.engines import Outcome
from crossdistill.study.runs import Run
from crossdistill.training.summary import judgement

_SECONDS = 1.0


class Progress:
    """Lines on a console.

    Args:
        console: where to.
        total: runs that are to be made.
        there: names of those that are there already.
        after_run: called when a run has ended.
    """

    def __init__(
        self, console: Console, total: int, there: list[str], after_run: Callable[[], None] = lambda: None
    ) -> None:
        # Runs in this process turn the standard output to their logs for as long as they last.
        self._console = console
        self._console.file = console.file
        self._total = total
        self._after_run = after_run
        self._ended = 0
        self._running: dict[str, Run] = {}
        self._status: Status | None = None
        self._over = threading.Event()
        if there:
            self._say(f"{len(there)} runs are there already")

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._over.set()
        if self._status is not None:
            self._status.stop()
        if exception[0] is KeyboardInterrupt:
            self._say(f"stopped behind {self._ended} of {self._total} runs; the same command goes on")

    def began(self, run: Run) -> None:
        self._running[run.name] = run
        if self._status is None:
            self._say(f"{run.name} begins")

    def ended(self, outcome: Outcome) -> None:
        self._running.pop(outcome.run.name, None)
        self._ended += 1
        told = f"failed: {outcome.error}"
        if not outcome.error:
            told = f"{judgement(outcome.summary)}, {outcome.summary['seconds']:.0f} s"
        self._say(f"{self._ended}/{self._total}  {outcome.run.name}  {told}")
        self._after_run()

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _watch(self) -> None:
        while not self._over.wait(_SECONDS):
            running = list(self._running.values())
            assert self._status is not None
            self._status.update(", ".join(f"{run.name} ({_where(run)})" for run in running))


def _where(run: Run) -> str:
    """How far a run is, from the last line of its metrics."""
    try:
        last = json.loads(run.folder.metrics.read_text().splitlines()[-1])
        return f"epoch {last['epoch']} of {run.options.epochs}"
    except (OSError, ValueError, IndexError, KeyError):
        return "begins"
