"""What a training step is given of a cache, in the place of the teacher's own pass."""

from typing import Protocol

import torch
from torch import Tensor

from crossdistill.cache.columns import Form
from crossdistill.cache.index import CacheFolder, shard_file
from crossdistill.cache.shards import Shard
from crossdistill.cache.streams import SEEN, Place, Replay, Static, image_means
from crossdistill.data import Batch
from crossdistill.data.memory import send
from crossdistill.errors import UserError
from crossdistill.staged import Outputs, StagedModel

# How far another device's arithmetic may lead from it; another crop leads farther.
_ROUNDING = 1e-4


class Answers(Protocol):
    """What the teacher says, known before."""

    def at(self, step: int, micro: int, batch: Batch) -> Outputs:
        """The teacher's outputs for a micro-batch of this process, on the device of its images.

        Args:
            step: the optimiser step.
            micro: number of the micro-batch in it.
            batch: as the student sees it.
        """
        ...


class _Reader:
    """Shards that are opened when they are first needed, and what is made of their rows."""

    def __init__(self, folder: CacheFolder, columns: list[str], form: Form, teacher: StagedModel) -> None:
        self.folder = folder
        self.columns = columns
        self.form = form
        self.teacher = teacher
        self._shards: dict[str, Shard] = {}

    def _shard(self, column: str, place: Place) -> Shard:
        file = shard_file(column, place.name)
        if file not in self._shards:
            self._shards[file] = Shard(self.folder.path / file, self.folder.entries[file])
        return self._shards[file]

    def _outputs(self, stored: dict[str, Tensor], device: torch.device) -> Outputs:
        on_device = {name: send(rows, device) for name, rows in stored.items()}
        return self.form.decode(on_device, self.columns, self.teacher)


class ReplayedAnswers(_Reader):
    """Answers to the very images of the run, found by their place in its stream.

    Args:
        stream: of the run.
        folder: complete for it.
        columns: what the method reads.
        form: how the columns are written.
        teacher: whose outputs they are.
    """

    def __init__(
        self, stream: Replay, folder: CacheFolder, columns: list[str], form: Form, teacher: StagedModel
    ) -> None:
        super().__init__(folder, columns, form, teacher)
        self.stream = stream
        self._open = ""

    def at(self, step: int, micro: int, batch: Batch) -> Outputs:
        place, row = self.stream.locate(step, micro)
        images = len(batch.images)
        if place.name != self._open:
            self._shards.clear()
            self._check_seen(self._shard(SEEN, place).rows(row, row + images), batch, step)
            self._open = place.name
        stored = {name: self._shard(name, place).rows(row, row + images) for name in self.form.stored(self.columns)}
        return self._outputs(stored, batch.images.device)

    def _check_seen(self, seen: Tensor, batch: Batch, step: int) -> None:
        """Once in a shard, for the host waits for the device: are these the images that the teacher saw?"""
        if not torch.allclose(image_means(batch.images), seen, rtol=0, atol=_ROUNDING):
            raise UserError(
                f"the teacher cache {self.folder.path} is of other images from step {step + 1} on, though all options "
                "agree: the data, or the code that augments them, has changed, or is random; fill another folder"
            )


class LookedUpAnswers(_Reader):
    """Answers to the images as they are, found by their positions in the training set.

    Args:
        stream: of the cache.
        folder: complete for it.
        columns: what the method reads.
        form: how the columns are written.
        teacher: whose outputs they are.
    """

    def __init__(
        self, stream: Static, folder: CacheFolder, columns: list[str], form: Form, teacher: StagedModel
    ) -> None:
        super().__init__(folder, columns, form, teacher)
        self.stream = stream

    def at(self, step: int, micro: int, batch: Batch) -> Outputs:
        indices = batch.indices.cpu()
        places = {place.name: place for place in map(self.stream.place_of, indices.tolist())}
        stored: dict[str, Tensor] = {}
        for place in places.values():
            is_here = (indices >= place.start) & (indices < place.start + place.images)
            for name in self.form.stored(self.columns):
                rows = self._shard(name, place).pick(indices[is_here] - place.start)
                if name not in stored:
                    stored[name] = rows.new_empty(len(indices), *rows.shape[1:])
                stored[name][is_here] = rows
        return self._outputs(stored, batch.images.device)
