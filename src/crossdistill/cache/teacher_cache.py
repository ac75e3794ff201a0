"""`TeacherCache`: what a run knows of its teacher without running it."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from rich.console import Console
from torch import Tensor

from crossdistill.cache.answers import Answers, LookedUpAnswers, ReplayedAnswers
from crossdistill.cache.columns import Form, columns_of
from crossdistill.cache.fill import Autocast, Filler
from crossdistill.cache.index import CacheFolder, shard_file
from crossdistill.cache.streams import Replay, Static
from crossdistill.distiller import Distiller
from crossdistill.errors import UserError
from crossdistill.models import weights_fingerprint
from crossdistill.staged import StagedModel

# What the teacher says of all validation images, which every run asks it.
_VALIDATION = "validation"


class TeacherCache:
    """The cache of a run: checked against the run's conditions, filled, and read.

    Args:
        path: its folder, which need not exist.
        distillers: the methods that it serves, with one teacher.
        stream: the training images as the teacher sees them.
        form: how it is written.
        conditions: what else the content depends on, by name.

    Raises:
        UserError: a method that no cache can serve, or a cache that was filled under other conditions.
    """

    def __init__(
        self,
        path: str,
        distillers: Sequence[Distiller],
        stream: Replay | Static,
        form: Form,
        conditions: dict[str, Any],
    ) -> None:
        teacher = distillers[0].teacher
        if teacher is None:
            raise UserError("--teacher_cache is of a teacher, and there is none: give --teacher, or leave it out")
        self.teacher: StagedModel = teacher
        self.folder = CacheFolder(path)
        self.stream = stream
        self.form = form
        names = [type(distiller).__name__ for distiller in distillers]
        # Of each method for itself, so that an error names the one that lacks something.
        self.columns = [
            (name, columns_of(distiller.needs.teacher, teacher, name))
            for name, distiller in zip(names, distillers, strict=True)
        ]
        replays = isinstance(stream, Replay)
        self.key = {
            "--teacher_cache_mode": "replay" if replays else "static",
            **form.as_key(),
            **teacher_key(teacher),
            **conditions,
            **stream.key(),
        }
        self.folder.check_key(self.key)

    def validation_logits(self) -> Tensor | None:
        """(N, K) float32, the teacher's logits of all validation images, where they are known."""
        return self.folder.read_table(_VALIDATION)

    def fill(self, console: Console, *, validation_logits: Tensor | None, autocast: Autocast, rank: int = 0) -> None:
        """Compute and write what is missing or damaged, after saying what that costs; one process at a time.

        Args:
            console: where to report.
            validation_logits: (N, K) float32 of all validation images; None for a teacher without a head.
            autocast: in what precision the teacher runs in training.
            rank: number of this process.

        Raises:
            UserError: the disk has too little room, or cannot be written.
        """
        # The first process fills for all when it comes to waiting: the others of this run wait for it.
        with self.folder.alone() if rank == 0 else nullcontext():
            self.folder.check_key(self.key)
            self._fill(console, validation_logits, autocast, rank)

    def _fill(self, console: Console, validation_logits: Tensor | None, autocast: Autocast, rank: int) -> None:
        columns = sorted({column for _, columns in self.columns for column in columns})
        filler = Filler(
            self.folder,
            self.key,
            self.stream,
            columns,
            self.form,
            self.teacher,
            autocast=autocast,
            rank=rank,
        )
        if columns:
            filler.fill(console)
        if validation_logits is not None and not self.folder.is_whole(f"{_VALIDATION}.safetensors", 0):
            entries = self.folder.write_table(_VALIDATION, validation_logits) if rank == 0 else {}
            self.folder.add(entries, self.key, write=rank == 0)

    def answers(self) -> Answers | None:
        """What serves the steps of the one method; None where it reads nothing of the teacher's plain outputs."""
        ((_, columns),) = self.columns
        if not columns:
            return None
        if isinstance(self.stream, Replay):
            return ReplayedAnswers(self.stream, self.folder, columns, self.form, self.teacher)
        return LookedUpAnswers(self.stream, self.folder, columns, self.form, self.teacher)

    def check_complete(self) -> None:
        """Refuse a cache that does not serve a run to its end, before it begins; checksums are left to the reading.

        Raises:
            UserError: something that a method reads is not there, not for all steps, or cut short.
        """
        if not self.folder.entries:
            raise UserError(
                f"there is no teacher cache in {self.folder.path}: fill it with `crossdistill cache` and the options "
                "of this run, or with --teacher_cache_fill true"
            )
        for method, columns in self.columns:
            self._check_columns(method, columns)

    def _check_columns(self, method: str, columns: list[str]) -> None:
        path = self.folder.path
        for column in columns:
            if not set(self.form.stored([column])) <= self.folder.columns():
                raise UserError(
                    f"the teacher cache {path} has no {column}, which {method} reads: add it with `crossdistill cache` "
                    "and the options of this run, or with --teacher_cache_fill true"
                )
        names = [*self.form.stored(columns), *self.stream.further]
        for places in self.stream.rounds():
            for place in places:
                for name in names:
                    if place is None or self.folder.covers(shard_file(name, place.name), place.images):
                        continue
                    unit = "step" if isinstance(self.stream, Replay) else "image"
                    raise UserError(
                        f"the teacher cache {path} has no {name} from {unit} {place.start + 1} on: go on filling it "
                        "with `crossdistill cache` and the options of this run, or with --teacher_cache_fill true"
                    )


def teacher_key(teacher: StagedModel) -> dict[str, Any]:
    """What the outputs of a teacher depend on beside the images."""
    card = teacher.card
    return {
        "teacher": teacher.name,
        "teacher's arguments": ", ".join(f"{name}={value}" for name, value in sorted(card.kwargs.items())),
        "number of classes of the teacher": teacher.num_classes,
        "teacher's image size": list(teacher.image_size),
        "teacher's normalisation": [*card.mean, *card.std],
        "stages of the teacher": [stage.path for stage in teacher.stages],
        "fingerprint of the teacher's weights": weights_fingerprint(teacher),
    }
