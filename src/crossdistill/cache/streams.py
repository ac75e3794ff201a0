"""Which images a teacher is shown for a cache, in which order, and in which shards what it says of them lies."""

import itertools
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from crossdistill.data import Batch, EvalLoader, ImageSource, Mixer, TrainLoader

# A column of its own: the mean of every image that the teacher was shown.
SEEN = "seen"
# Of one shard, over all processes: what a fill that is killed computes again at most.
SHARD_IMAGES = 65_536
# Options of the data that do not decide which pixels a training batch has, or that stand in the key by themselves. What
# is not named here counts.
_OTHER_OPTIONS = {
    *("data", "held_out", "data_seed", "on_bad_image", "cache_images", "workers"),
    *("label_smoothing", "mixup", "cutmix"),
}
_EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Place:
    """The images of one shard.

    Args:
        name: of its files.
        images: how many this process shows the teacher.
        start: the optimiser step, or the image, that it begins with.
    """

    name: str
    images: int
    start: int


class Stream(Protocol):
    """What a cache is filled along.

    Attributes:
        further: columns that are kept beside those of the teacher's outputs.
    """

    further: tuple[str, ...]

    def key(self) -> dict[str, Any]:
        """What the images depend on, by the names of the options where it is one."""
        ...

    def rounds(self) -> list[list[Place | None]]:
        """The shards in their order: for each round, what each process fills in it."""
        ...

    def batches(self, place: Place) -> Generator[Batch]:
        """The images of a shard of this process, in their order."""
        ...


class Replay:
    """The very batches of a run, augmented and mixed, as its student is shown them.

    They are a function of the data seed, the epoch and the step, so a place in the stream says which they are.

    Args:
        train: the run's training batches.
        mixer: its mixing.
        total_steps: optimiser steps of the run.
        channels_last: whether the run keeps its images in that memory order.
    """

    further: tuple[str, ...] = (SEEN,)

    def __init__(self, train: TrainLoader, mixer: Mixer, total_steps: int, *, channels_last: bool = False) -> None:
        self.train = train
        self.mixer = mixer
        self.total_steps = total_steps
        self.channels_last = channels_last
        self._steps = max(1, SHARD_IMAGES // train.batch_size)
        self._local = train.batch_size // train.world_size

    def key(self) -> dict[str, Any]:
        options = asdict(self.train.options)
        augmentation = {f"--{name}": value for name, value in options.items() if name not in _OTHER_OPTIONS}
        return {
            "--data_seed": self.train.data_seed,
            "--batch_size": self.train.batch_size,
            "--accumulate": self.train.accumulate,
            "number of processes": self.train.world_size,
            **augmentation,
            "images kept in memory": self.train.pixels is not None,
            "--mixup": self.mixer.mixup,
            "--cutmix": self.mixer.cutmix,
        }

    def rounds(self) -> list[list[Place | None]]:
        places = []
        for epoch_start in range(0, self.total_steps, self.train.steps_per_epoch):
            end = min(epoch_start + self.train.steps_per_epoch, self.total_steps)
            places += [(start, min(self._steps, end - start)) for start in range(epoch_start, end, self._steps)]
        return [[self._place(start, steps, rank) for rank in range(self.train.world_size)] for start, steps in places]

    def batches(self, place: Place) -> Generator[Batch]:
        epoch, first = divmod(place.start, self.train.steps_per_epoch)
        accumulate = self.train.accumulate
        count = accumulate * (place.images // self._local)
        with closing(self.train.epoch(epoch, start_step=first)) as micro_batches:
            for number, batch in enumerate(itertools.islice(micro_batches, count)):
                images, labels = self.mixer(batch.images, batch.labels, step=place.start + number // accumulate)
                if self.channels_last:
                    images = images.contiguous(memory_format=torch.channels_last)
                yield Batch(images, labels, batch.indices)

    def locate(self, step: int, micro: int) -> tuple[Place, int]:
        """The shard that has a micro-batch of this process, and the row at which it begins there."""
        epoch, within = divmod(step, self.train.steps_per_epoch)
        part, row = divmod(within, self._steps)
        start = epoch * self.train.steps_per_epoch + part * self._steps
        end = min((epoch + 1) * self.train.steps_per_epoch, self.total_steps)
        place = self._place(start, min(self._steps, end - start), self.train.rank)
        return place, row * self._local + micro * (self._local // self.train.accumulate)

    def _place(self, start: int, steps: int, rank: int) -> Place:
        epoch, within = divmod(start, self.train.steps_per_epoch)
        name = f"epoch{epoch:04d}-part{within // self._steps:03d}-rank{rank}"
        return Place(name, steps * self._local, start)


class Static:
    """Every training image once, in order, as for evaluation.

    Args:
        source: the training images.
        image_size: height and width of the run's batches.
        device: where the teacher is.
        workers: processes that decode images.
        rank: number of this process.
        world_size: number of processes.
    """

    further: tuple[str, ...] = ()

    def __init__(
        self,
        source: ImageSource,
        *,
        image_size: tuple[int, int],
        device: torch.device,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.source = source
        self.image_size = image_size
        self.device = device
        self.workers = workers
        self.rank = rank
        self.world_size = world_size
        self._loader: EvalLoader | None = None

    def key(self) -> dict[str, Any]:
        return {}

    def rounds(self) -> list[list[Place | None]]:
        starts = range(0, len(self.source), SHARD_IMAGES)
        places: list[Place | None] = [self.place_of(start) for start in starts]
        places += [None] * (-len(places) % self.world_size)
        return [places[i : i + self.world_size] for i in range(0, len(places), self.world_size)]

    def batches(self, place: Place) -> Generator[Batch]:
        if self._loader is None:
            # Read once, so there is nothing to keep in memory for.
            keep = "false" if self.source.pixels is None else "auto"
            self._loader = EvalLoader(
                self.source,
                image_size=self.image_size,
                batch_size=_EVALUATION_BATCH,
                device=self.device,
                workers=self.workers,
                cache_images=keep,
            )
        yield from self._loader.at(torch.arange(place.start, place.start + place.images))

    def place_of(self, image: int) -> Place:
        """The shard that has an image."""
        number = image // SHARD_IMAGES
        start = number * SHARD_IMAGES
        return Place(f"images{number:05d}", min(SHARD_IMAGES, len(self.source) - start), start)


def image_means(images: Tensor) -> Tensor:
    """(B,) float32 on the host: what tells whether two batches are the same images."""
    return images.float().mean(dim=(1, 2, 3)).cpu()
