"""Where a run reports: `metrics.jsonl`, TensorBoard, and a progress bar or plain lines."""

import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from crossdistill.training.run_folder import RunFolder, write_atomically


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

    def training(self, step: int, epoch: int, values: dict[str, float], images_per_second: float, memory: int) -> None:
        """One line per log interval: the mean of every loss term since the last one."""
        self._record("train", step, epoch, values | {"images_per_second": images_per_second})
        terms = "  ".join(f"{name} {value:.3f}" for name, value in values.items() if name != "learning_rate")
        state = f"{terms}  {images_per_second:.0f} images/s  {memory / 2**30:.2f} GiB"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, state=state)
        else:
            self.console.print(f"epoch {epoch + 1}  step {step}/{self.total_steps}  {state}", soft_wrap=True)

    def evaluation(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """One line per evaluation of the student."""
        self._record("evaluation", step, epoch, values)
        shown = "  ".join(f"{name} {value:.2f}" for name, value in values.items() if name not in ("images", "seconds"))
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
