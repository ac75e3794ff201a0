"""Where a run reports: `metrics.jsonl`, TensorBoard, and a progress bar or plain lines."""

import json
import math
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from crossdistill.training.run_folder import RunFolder, write_atomically

# Terms of the loss in one line of the console.
_TERMS_SHOWN = 3


class RunLog:
    """Reports of the first process of a run; the others hold none.

    Args:
        folder: the run's folder.
        total_steps: optimiser steps of the whole run.
        step: optimiser steps taken already; what the files say of later ones is cut off.
        console: where to print.
    """

    def __init__(self, folder: RunFolder, total_steps: int, step: int, console: Console) -> None:
        # Importing TensorBoard costs a second, which `--help` must not pay.
        from torch.utils.tensorboard import SummaryWriter

        _cut_back(folder.metrics, step)
        self.console = console
        self._file = folder.metrics.open("a")
        self._tensorboard = SummaryWriter(str(folder.path), purge_step=step + 1 if step else None)
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[state]}"),
                console=console,
            )
            self._task = self._bar.add_task("steps", total=total_steps, completed=step, state="")
            self._bar.start()
        self.total_steps = total_steps
        self._started, self._first_step = time.monotonic(), step

    def training(self, step: int, epoch: int, values: dict[str, float], images_per_second: float, memory: int) -> None:
        """One line per log interval: the mean of every loss term since the last one."""
        self._record("train", step, epoch, values | {"images_per_second": images_per_second})
        state = f"{_terms_in_short(values)}  {images_per_second:.0f} images/s  {memory / 2**30:.2f} GiB"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, state=state)
        else:
            line = f"epoch {epoch + 1}  step {step}/{self.total_steps}  {self._time_left(step)} left  {state}"
            self.console.print(line, soft_wrap=True)

    def _time_left(self, step: int) -> timedelta:
        """At the pace since this process began, evaluations included."""
        seconds = (time.monotonic() - self._started) / (step - self._first_step) * (self.total_steps - step)
        return timedelta(seconds=round(seconds))

    def evaluation(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """One line per evaluation of the student."""
        self._record("evaluation", step, epoch, values)
        # What is of one class only is in the files.
        plain = {name: value for name, value in values.items() if "/" not in name}
        shown = "  ".join(f"{name} {value:.2f}" for name, value in plain.items() if name not in ("images", "seconds"))
        self.console.print(f"epoch {epoch + 1}  validation  {shown}", soft_wrap=True)

    def message(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._file.close()
        self._tensorboard.close()

    def _record(self, kind: str, step: int, epoch: int, values: dict[str, float]) -> None:
        # JSON has no NaN; a run that diverged must still leave a file that any reader parses.
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line: dict[str, Any] = {"kind": kind, "step": step, "epoch": epoch + 1, **plain}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._tensorboard.add_scalar(f"{kind}/{name}", value, step)
        self._tensorboard.flush()


def _terms_in_short(values: dict[str, float]) -> str:
    """The loss and its largest terms: what fits a line; the files have all of them."""
    others = ("loss", "learning_rate")
    terms = {name: value for name, value in values.items() if name not in others and "/" not in name}
    largest = sorted(terms, key=lambda name: -abs(terms[name]))[:_TERMS_SHOWN]
    shown = [f"loss {values['loss']:.3f}", *(f"{name} {terms[name]:.3f}" for name in terms if name in largest)]
    left_out = len(terms) - len(largest)
    return "  ".join(shown) + (f"  (+{left_out} terms)" if left_out else "")


def _cut_back(metrics: Path, step: int) -> None:
    """Drop the lines of steps after `step`, and a last line that was not finished."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except json.JSONDecodeError:
            break
    write_atomically(metrics, "".join(kept))
