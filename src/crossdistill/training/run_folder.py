"""The folder of one run: its recipe, metrics, summary, checkpoints and student."""

import dataclasses
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from crossdistill.data import NO_LABEL, ImageData
from crossdistill.errors import UserError
from crossdistill.files import written_whole
from crossdistill.options import TrainingOptions

_VALUE = "value."


@dataclasses.dataclass
class Predictions:
    """What the models of a run said of each validation image.

    Attributes:
        student: (N, K) float32 logits.
        teacher: (N, K) float32 logits; None where there was none, or none with a head.
        labels: (N,) int64.
        images: N names.
        classes: K names.
        values: further values by image: the method's validation metrics (N,), and `knn_top1` of the probe's images.
    """

    student: Tensor
    teacher: Tensor | None
    labels: Tensor
    images: list[str]
    classes: list[str]
    values: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return bool((self.labels != NO_LABEL).all())


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
        self.predictions = self.path / "predictions.safetensors"
        self.checkpoints = self.path / "checkpoints"
        # What a run would say on a terminal, where it runs beside others.
        self.log = self.path / "log.txt"

    @property
    def finished(self) -> bool:
        """Whether the run in it came to its end: the summary is what it writes last."""
        return self.summary.exists()

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
        elif self.path.is_dir() and any(path != self.log for path in self.path.iterdir()):
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
        fields = {field.name: field for field in dataclasses.fields(TrainingOptions)}
        if given is None:
            defaults = TrainingOptions()
            given = [name for name in fields if getattr(options, name) != getattr(defaults, name)]
        for name in given:
            wanted, there = getattr(options, name), getattr(recorded, name)
            if wanted == "auto" and fields[name].metadata.get("found_at_start"):
                continue
            if wanted != there and not fields[name].metadata.get("free_on_resume"):
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

    def write_predictions(
        self,
        data: ImageData,
        *,
        student: Tensor,
        teacher: Tensor | None,
        values: Mapping[str, Tensor],
        classes: list[str],
    ) -> None:
        """Record what the models say of each validation image, for statistics over images.

        `student` and `teacher` (N, K) float32 logits, `labels` (N,) int64; the metadata has one JSON object with the
        names of the `images` and of the `classes`. A teacher without a head says nothing, a student without one has
        K = 0. `value.<name>` are the further values. Images without labels have `NO_LABEL`.
        """
        tensors = {"student": student, "labels": data.validation.labels}
        if teacher is not None:
            tensors["teacher"] = teacher
        tensors |= {f"{_VALUE}{name}": tensor for name, tensor in values.items()}
        names = json.dumps({"images": data.validation.names, "classes": classes})
        content = safetensors.torch.save({k: v.cpu().contiguous() for k, v in tensors.items()}, {"crossdistill": names})
        with written_whole(self.predictions) as beside:
            beside.write_bytes(content)

    def read_predictions(self) -> Predictions:
        """What `write_predictions` wrote.

        Raises:
            UserError: the file is not there, or damaged.
        """
        try:
            tensors = safetensors.torch.load(self.predictions.read_bytes())
            with safetensors.safe_open(self.predictions, framework="pt") as opened:
                names = json.loads(opened.metadata()["crossdistill"])
            return Predictions(
                tensors["student"],
                tensors.get("teacher"),
                tensors["labels"],
                names["images"],
                names["classes"],
                {name.removeprefix(_VALUE): tensor for name, tensor in tensors.items() if name.startswith(_VALUE)},
            )
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.predictions} is missing or damaged ({' '.join(str(error).split())})") from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`: `kind` (train or evaluation), `step`, `epoch`, and values by name.

        A last line that is still being written is left out.

        Raises:
            UserError: the file is damaged.
        """
        if not self.metrics.exists():
            return []
        lines = []
        try:
            texts = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            for text in texts:
                if text.endswith("\n"):
                    line = json.loads(text)
                    lines.append(line | {name: line[name] for name in ("kind", "step", "epoch")})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{self.metrics} is damaged in line {len(lines) + 1}") from error
        return lines

    def write_summary(self, summary: dict[str, Any]) -> None:
        """The last thing that a run writes."""
        write_atomically(self.summary, json.dumps(summary, indent=2) + "\n")

    def read_summary(self) -> dict[str, Any]:
        """What `write_summary` wrote.

        Raises:
            UserError: it was changed so that it is no JSON any more.
        """
        try:
            return json.loads(self.summary.read_text())
        except ValueError as error:
            raise UserError(f"{self.summary} is damaged: delete it, and the run goes on from its checkpoint") from error


def load_recipe(path: Path) -> TrainingOptions:
    """The options that `recipe.yaml` records.

    Raises:
        UserError: the file was changed so that it holds no options any more.
    """
    try:
        return TrainingOptions.from_dict(yaml.safe_load(path.read_text()))
    except (yaml.YAMLError, TypeError, KeyError, AttributeError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} is not a recipe of this version ({reason}): undo what was changed in it, or start a new run"
        ) from error


def write_atomically(path: Path, text: str) -> None:
    with written_whole(path) as beside:
        beside.write_text(text)


def _short(value: object) -> str:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return " ".join(str(part) for part in dataclasses.asdict(value).values() if part)
    return str(value)
