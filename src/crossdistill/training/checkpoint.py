"""Checkpoints: a folder per step, written under a temporary name and renamed, holding tensors and plain values only.

`state.pt` is what all processes share. `rank-<r>.pt` is what each process has for itself: its random states and the
buffers that its method declares as `rank_local`. Both load with `weights_only=True`.
"""

import errno
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from crossdistill.errors import UserError

_PREFIX = "step-"


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in a run's `checkpoints/` folder, or None."""
    complete = sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir() and path.suffix != ".part")
    return complete[-1] if complete else None


class CheckpointWriter:
    """Writes one checkpoint; every process calls `write_rank`, the first one `begin`, `write_shared` and `finish`.

    Args:
        folder: the run's `checkpoints/` folder.
        step: optimiser steps taken.

    Raises:
        UserError: (from the writing methods) the disk is full or not writable; older checkpoints stay as they are.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.target = folder / f"{_PREFIX}{step:09d}"
        self.part = self.target.with_suffix(".part")

    def begin(self) -> None:
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)

    def write_shared(self, state: dict[str, Any]) -> None:
        self._save(state, "state.pt")

    def write_rank(self, rank: int, state: dict[str, Any]) -> None:
        self._save(state, f"rank-{rank}.pt")

    def finish(self) -> None:
        """Give the checkpoint its name, then drop the older ones: at every moment one complete checkpoint exists."""
        if self.target.exists():
            shutil.rmtree(self.target)
        self.part.rename(self.target)
        for path in self.target.parent.glob(f"{_PREFIX}*"):
            if path != self.target:
                shutil.rmtree(path, ignore_errors=True)

    def _save(self, state: dict[str, Any], name: str) -> None:
        try:
            torch.save(state, self.part / name)
        except (OSError, RuntimeError) as error:
            # torch reports a write that failed midway as a RuntimeError of its own zip writer.
            full = getattr(error, "errno", None) == errno.ENOSPC or not _has_room(self.part)
            if not full and not isinstance(error, OSError):
                raise
            shutil.rmtree(self.part, ignore_errors=True)
            reason = "the disk is full" if full else str(error)
            raise UserError(
                f"cannot write the checkpoint {self.target}: {reason}; free some space and go on with --resume true "
                "(the checkpoint before it is intact)"
            ) from error


def read_checkpoint(path: Path, rank: int) -> dict[str, dict[str, Any]]:
    """The state as `TrainState.state_dict` gave it: the `shared` part and this process's own, `rank`.

    Raises:
        UserError: the checkpoint has no state for this process, so it was written by fewer, or it is damaged.
    """
    own = path / f"rank-{rank}.pt"
    if not own.exists():
        ranks = len(list(path.glob("rank-*.pt")))
        raise UserError(f"{path} was written by {ranks} process(es); resume with as many --devices and --nodes")
    try:
        shared = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
        return {"shared": shared, "rank": torch.load(own, map_location="cpu", weights_only=True)}
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"the checkpoint {path} is damaged or incomplete: delete that folder to go on from the one before it, "
            "if there is one, or start a new run"
        ) from error


def _has_room(folder: Path) -> bool:
    return shutil.disk_usage(folder).free > 1 << 20
