"""Filling a cache: the teacher runs once along a stream of images, and what it says is written down."""

import itertools
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from crossdistill.cache.columns import Form
from crossdistill.cache.index import CacheFolder, shard_file
from crossdistill.cache.shards import Entry, new_shard
from crossdistill.cache.streams import SEEN, Place, Stream, image_means
from crossdistill.data import Batch
from crossdistill.errors import UserError
from crossdistill.staged import StagedModel

Autocast = Callable[[], AbstractContextManager[Any]]

# Batches that tell size and time; the first of them warms up.
_MEASURED = 3
# Seconds between two lines on how far it is.
_REPORT_EVERY = 30


@dataclass(frozen=True)
class _Round:
    """What is missing in one round of a stream: columns, of what each process has to fill."""

    places: list[Place | None]
    names: list[str]

    @property
    def images(self) -> int:
        """Of all processes."""
        return sum(place.images for place in self.places if place is not None)


class _Progress:
    """A line now and then on how far it is.

    Args:
        console: where it is printed.
        images: that this process has to show the teacher.
    """

    def __init__(self, console: Console, images: int) -> None:
        self._console = console
        self._images = images
        self._shown = 0
        self._started = self._reported = time.monotonic()

    def add(self, images: int) -> None:
        self._shown += images
        now = time.monotonic()
        if now - self._reported > _REPORT_EVERY:
            self._reported = now
            left = timedelta(seconds=round((now - self._started) * (self._images / self._shown - 1)))
            share = 100 * self._shown / self._images
            self._console.print(f"teacher cache: {share:.0f} % filled, {left} left", soft_wrap=True)


class Filler:
    """Fills what is missing of some columns of a cache.

    With several processes each calls this and fills its own shards; the first one writes the index.

    Args:
        folder: of the cache.
        key: what its content depends on.
        stream: the images.
        columns: what is wanted of the teacher's outputs.
        form: how it is written.
        teacher: frozen, in eval mode, on the device of the images.
        autocast: in what precision it runs, as in a training step.
        rank: number of this process.
    """

    def __init__(
        self,
        folder: CacheFolder,
        key: dict[str, Any],
        stream: Stream,
        columns: list[str],
        form: Form,
        teacher: StagedModel,
        *,
        autocast: Autocast,
        rank: int = 0,
    ) -> None:
        self.folder = folder
        self.key = key
        self.stream = stream
        self.columns = columns
        self.form = form
        self.teacher = teacher
        self.autocast = autocast
        self.rank = rank

    def fill(self, console: Console) -> None:
        """Say what it costs, then compute and write what is missing or damaged. A fill that was killed goes on.

        Raises:
            UserError: the disk has too little room, or a process cannot write.
        """
        work = self._missing()
        if not work:
            console.print(f"the teacher cache {self.folder.path} is complete", soft_wrap=True)
            return
        self._announce(work, console)
        own = [part.places[self.rank] for part in work]
        progress = _Progress(console, sum(place.images for place in own if place is not None))
        for part in work:
            entries = self._write_round(part.places[self.rank], part.names, progress)
            self.folder.add(entries, self.key, write=self.rank == 0)

    def _missing(self) -> list[_Round]:
        """The rounds in which a process lacks something."""
        names = [*self.form.stored(self.columns), *self.stream.further]
        rounds = self.stream.rounds()
        own = []
        for places in rounds:
            place = places[self.rank]
            lacking = {
                name
                for name in names
                if place is not None and not self.folder.is_whole(shard_file(name, place.name), place.images)
            }
            own.append(lacking)
        anywhere = [set().union(*sets) for sets in zip(*_gather(own), strict=True)]
        return [_Round(places, sorted(lacking)) for places, lacking in zip(rounds, anywhere, strict=True) if lacking]

    def _announce(self, work: list[_Round], console: Console) -> None:
        """Say how much is written and how long it takes.

        Raises:
            UserError: the disk has too little room.
        """
        first = next(place for place in work[0].places if place is not None)
        sizes, seconds = self._measure(first)
        images = sum(part.images for part in work)
        bytes_of = {
            name: size * sum(part.images for part in work if name in part.names) for name, size in sizes.items()
        }
        total = sum(bytes_of.values())
        parts = ", ".join(f"{name} {in_bytes(size)}" for name, size in bytes_of.items() if size and name != SEEN)
        time_needed = timedelta(seconds=round(seconds * images / len(work[0].places)))
        console.print(
            f"teacher cache {self.folder.path}: {in_bytes(total)} to write ({parts}), about {time_needed}",
            soft_wrap=True,
        )
        existing = next(path for path in (self.folder.path, *self.folder.path.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if total > free:
            raise UserError(
                f"the teacher cache needs {in_bytes(total)} and the disk of {self.folder.path} has {in_bytes(free)} "
                "free: choose another folder, fewer --epochs, or less with --teacher_cache_top_k or "
                "--teacher_cache_dtype float16"
            )

    def _measure(self, place: Place) -> tuple[dict[str, int], float]:
        """Bytes per image of every column, and seconds per image."""
        seconds: list[float] = []
        sizes: dict[str, int] = {}
        started = time.perf_counter()
        with closing(self._encoded(place)) as batches:
            for encoded in itertools.islice(batches, _MEASURED):
                images = len(encoded[SEEN])
                sizes = {name: rows.nbytes // images for name, rows in encoded.items()}
                seconds.append((time.perf_counter() - started) / images)
                started = time.perf_counter()
        return sizes, min(seconds)

    def _encoded(self, place: Place) -> Generator[dict[str, Tensor]]:
        """What is written of each batch of a shard, on the host."""
        with closing(self.stream.batches(place)) as batches:
            for batch in batches:
                yield self._encode(batch)

    def _encode(self, batch: Batch) -> dict[str, Tensor]:
        # The same numbers as in a training step, which runs the teacher without gradient.
        with torch.inference_mode(), self.autocast():
            outputs = self.teacher(batch.images)
        return self.form.encode(outputs, self.columns) | {SEEN: image_means(batch.images)}

    def _write_round(self, place: Place | None, names: list[str], progress: _Progress) -> dict[str, Entry]:
        """Write this process's shards of a round; the entries of all processes."""
        entries: dict[str, Entry] = {}
        error: UserError | None = None
        try:
            if place is not None:
                entries = self._write(place, names, progress)
        except UserError as caught:
            error = caught
        # One process that fails alone would leave the others waiting for it.
        gathered = _gather((entries, str(error) if error is not None else ""))
        if error is not None:
            raise error
        for others, reason in gathered:
            if reason:
                raise UserError(f"another process could not fill the teacher cache: {reason}")
            entries = entries | others
        return entries

    def _write(self, place: Place, names: list[str], progress: _Progress) -> dict[str, Entry]:
        files = {name: shard_file(name, place.name) for name in names}
        with ExitStack() as stack:
            writers = {
                name: stack.enter_context(new_shard(self.folder.path / file, place.images))
                for name, file in files.items()
            }
            for encoded in stack.enter_context(closing(self._encoded(place))):
                for name, writer in writers.items():
                    writer.append(encoded[name])
                progress.add(len(encoded[SEEN]))
            return {files[name]: writer.entry() for name, writer in writers.items()}


def in_bytes(size: float) -> str:
    """A number of bytes as a user reads it: 1.5 MB."""
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= one:
            return f"{size / one:.1f} {unit}"
    return f"{max(size, 0) / 1e3:.0f} kB"


def _gather(value: Any) -> list[Any]:
    """What every process has, in their order."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, value)
    return gathered
