"""The folder of one run: its recipe, metrics, summary, checkpoints and student."""

import dataclasses
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from crossdistill.errors import UserError
from crossdistill.files import written_whole
from crossdistill.options import TrainingOptions

# What may differ when a run goes on: where and how it is computed and reported, not what is computed.
_FREE_ON_RESUME = {
    "output",
    "resume",
    "workers",
    "log_every",
    "log_gradient_norms",
    "checkpoint_every",
    "on_bad_image",
    "cache_images",
    "allow_weak_teacher",
}


class RunFolder:
    """Paths of a run and the files that are written once.

    Args:
        path: the folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._given = bool(str(path))
        self.recipe = self.path / "recipe.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"
        self.student = self.path / "student.safetensors"
        self.checkpoints = self.path / "checkpoints"

    def check(self, resume: bool) -> None:
        """Refuse a folder that cannot take this run, before anything is computed or written.

        Raises:
            UserError: no folder given, another run in it, nothing to resume in it, or not writable.
        """
        if not self._given:
            raise UserError("--output is missing: name the folder that the run is written to")
        if resume:
            if not self.recipe.exists():
                raise UserError(f"--resume true: {self.path} holds no run to go on with")
        elif self.path.is_dir() and any(self.path.iterdir()):
            if self.recipe.exists():
                raise UserError(f"{self.path} holds another run; choose another --output, or go on with --resume true")
            raise UserError(f"{self.path} is not empty; choose another --output")
        existing = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise UserError(f"--output {self.path}: {existing} is not a folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"--output {self.path}: {existing} is not writable")

    def merge_recipe(self, options: TrainingOptions, given: Collection[str] | None = None) -> TrainingOptions:
        """The run's recorded recipe, with what may change on resume taken from `options`.

        Args:
            options: what is asked for.
            given: names of the options that count; default: those that are not at their defaults.

        Raises:
            UserError: `options` asks for something else than the run was started with.
        """
        recorded = load_recipe(self.recipe)
        if given is None:
            defaults = TrainingOptions()
            names = [field.name for field in dataclasses.fields(TrainingOptions)]
            given = [name for name in names if getattr(options, name) != getattr(defaults, name)]
        for name in given:
            wanted, there = getattr(options, name), getattr(recorded, name)
            if wanted != there and name not in _FREE_ON_RESUME:
                raise UserError(
                    f"the run in {self.path} was started with --{name} {_short(there)}, not {_short(wanted)}: "
                    f"leave --{name} out, or choose another --output"
                )
            setattr(recorded, name, wanted)
        return recorded

    def create(self, options: TrainingOptions) -> None:
        """Make the folder and record the recipe in it."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        # Resuming belongs to one call, not to the recipe.
        recipe = dataclasses.asdict(options) | {"resume": False}
        write_atomically(self.recipe, yaml.safe_dump(recipe, sort_keys=False))


def load_recipe(path: Path) -> TrainingOptions:
    """The options that `recipe.yaml` records.

    Raises:
        UserError: the file was changed so that it holds no options any more.
    """
    from crossdistill.options import MethodOptions, ModelOptions

    try:
        values: dict[str, Any] = yaml.safe_load(path.read_text())
        for name, kind in (("student", ModelOptions), ("teacher", ModelOptions), ("method", MethodOptions)):
            values[name] = kind(**values[name])
        return TrainingOptions(**values)
    except (yaml.YAMLError, TypeError, KeyError, AttributeError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} is not a recipe of this version ({reason}): undo what was changed in it, or start a new run"
        ) from error


def write_atomically(path: Path, text: str) -> None:
    with written_whole(path) as beside:
        beside.write_text(text)


def write_json(path: Path, value: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def _short(value: object) -> str:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return " ".join(str(part) for part in dataclasses.asdict(value).values() if part)
    return str(value)
