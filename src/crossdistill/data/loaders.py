"""Batches on the device: shuffled and augmented for training, in order and whole for evaluation."""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from crossdistill.data import augment, draws, memory
from crossdistill.data.shares import Shares
from crossdistill.data.sources import ImageSource
from crossdistill.data.transforms import TrainTransform
from crossdistill.data.workers import AugmentedViews, BatchPlan, FittedImages, start_workers
from crossdistill.errors import UserError
from crossdistill.options import DataOptions, check_ranges


@dataclass
class Batch:
    """Images on the device.

    Attributes:
        images: (B, 3, H, W) float32 in [0, 1].
        labels: (B,) int64 class indices; None of images without labels.
        indices: (B,) int64 positions of the images in their source.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


class TrainLoader:
    """Augmented training batches whose content depends on (data seed, epoch, step) alone.

    A global batch is the same images in the same order, each with the same augmentation, whatever the number of
    devices, accumulation steps and workers; every process takes its own slice. Small images are kept in memory and
    augmented in batches on the device, others one by one in worker processes (`memory.keeps` decides from the data
    and the options, never from the machine).

    Args:
        source: the training images.
        image_size: height and width of the batches.
        batch_size: images of one optimiser step, over all processes and accumulation steps.
        accumulate: micro-batches of one optimiser step.
        rank: number of this process.
        world_size: number of processes.
        data_seed: seed of order and augmentation.
        device: where the batches go.
        options: how the images are loaded and what is done to them.

    Raises:
        UserError: fewer images than a batch, a batch that cannot be shared out, or options that exclude each other.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        image_size: tuple[int, int],
        batch_size: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        data_seed: int,
        device: torch.device | str,
        options: DataOptions,
    ) -> None:
        self.shares = Shares(batch_size, accumulate, rank, world_size)
        _check(len(source), self.shares, options)
        self.source = source
        self.image_size = image_size
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.rank = rank
        self.world_size = world_size
        self.data_seed = data_seed
        self.device = torch.device(device)
        self.options = options
        self.steps_per_epoch = len(source) // batch_size

        kept_size = memory.natural_size(source, image_size) if options.crop == "resized" else image_size
        in_workers = bool(options.rand_augment or options.color_jitter)
        if in_workers and options.cache_images == "true":
            raise UserError("--cache_images true does not go with --rand_augment or --color_jitter: leave it at auto")
        self.pixels: Tensor | None = None
        if not in_workers and memory.keeps(source, kept_size, options.cache_images):
            self.pixels = memory.on_device(memory.keep(source, kept_size, options.workers), self.device)
        else:
            views = AugmentedViews(source, TrainTransform(image_size, options), data_seed)
            self._plan = BatchPlan()
            self._decoded = start_workers(views, self._plan, options.workers, self.device)
        self.labels = source.labels if self.pixels is None else source.labels.to(self.pixels.device)
        self.labelled = source.labelled

    def epoch(self, epoch: int, start_step: int = 0) -> Generator[Batch]:
        """This process's micro-batches of one epoch, in order: `accumulate` for each optimiser step.

        Args:
            epoch: number of the epoch.
            start_step: optimiser step within the epoch to begin with; what is skipped is not read.
        """
        indices, repetitions = self._order(epoch)
        parts = self.shares.parts(range(start_step, self.steps_per_epoch))
        if self.pixels is None:
            self._plan.batches = [
                [(epoch, *view) for view in zip(indices[part].tolist(), repetitions[part].tolist(), strict=True)]
                for part in parts
            ]
            for part, pixels in zip(parts, self._decoded, strict=True):
                yield self._batch(epoch, pixels, indices[part], repetitions[part])
        else:
            # One copy for the epoch; its slices are then taken without the host waiting for the device.
            indices, repetitions = indices.to(self.pixels.device), repetitions.to(self.pixels.device)
            for part in parts:
                yield self._batch(epoch, self.pixels[indices[part]], indices[part], repetitions[part])

    def plain(self, limit: int | None = None) -> Iterable[Tensor]:
        """Training images as for evaluation, (B, 3, H, W) in [0, 1]: the same on every process, a fresh pass each time.

        Args:
            limit: number of images, a random choice; None: all of them.
        """
        chosen = draws.permutation(len(self.source), self.data_seed, 0, draws.SUBSET)[:limit]
        return _Images(
            lambda: EvalLoader(
                self.source.subset(chosen),
                image_size=self.image_size,
                batch_size=self.shares.micro_batch,
                device=self.device,
                workers=self.options.workers,
                cache_images="false" if self.source.pixels is None else "auto",
            )
        )

    def _order(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Image and repetition number at each place of the epoch, both (N,)."""
        order = draws.permutation(len(self.source), self.data_seed, epoch)
        views = self.options.repeated_augmentation
        if views == 1:
            return order, torch.zeros_like(order)
        # The views of an image are in one batch (Hoffer et al., "Augment your batch", CVPR 2020), but not side by side,
        # where mixing would pair an image with itself.
        runs = order[: -(-len(order) // views)].split(-(-self.batch_size // views))
        indices = torch.cat([run.repeat(views) for run in runs])
        repetitions = torch.cat([torch.arange(views).repeat_interleave(len(run)) for run in runs])
        return indices[: len(order)], repetitions[: len(order)]

    def _batch(self, epoch: int, pixels: Tensor, indices: Tensor, repetitions: Tensor) -> Batch:
        """Put the pixels on the device and do there what remains to be done to them."""
        labels = self.labels[indices]
        pixels, labels, indices, repetitions = (
            memory.send(tensor, self.device) for tensor in (pixels, labels, indices, repetitions)
        )

        def keys(stream: int) -> Tensor:
            return draws.keys(stream, self.data_seed, epoch, indices, repetitions)

        if self.pixels is None:
            images = augment.to_float(pixels)
        else:
            images = self._crop_and_flip(pixels, keys(draws.CROP), keys(draws.FLIP))
        if self.options.random_erasing:
            images = augment.erase(images, keys(draws.ERASE), self.options.random_erasing)
        return _batch(images, labels, indices, self.labelled)

    def _crop_and_flip(self, pixels: Tensor, crop_keys: Tensor, flip_keys: Tensor) -> Tensor:
        """What the workers do to other images, on kept ones: (B, 3, h, w) uint8 to (B, 3, H, W) float."""
        flipped = augment.coin(flip_keys, self.options.flip)
        if self.options.crop == "resized":
            images = augment.to_float(pixels)
            return augment.resized_crop(images, crop_keys, self.image_size, self.options.crop_scale, flipped)
        if self.options.crop == "shifted":
            return augment.to_float(augment.shifted_crop(pixels, crop_keys, flipped))
        return augment.to_float(augment.flip(pixels, flipped))


class EvalLoader:
    """Every image once, in order, without augmentation.

    Args:
        source: the images.
        image_size: height and width of the batches.
        batch_size: images of one batch on this process; the last one may be smaller.
        device: where the batches go.
        workers: processes that decode what is not kept in memory.
        rank: number of this process; it reads every `world_size`-th image, so that no image is read twice.
        world_size: number of processes.
        cache_images: `true`, `false` or `auto`, as `memory.keeps` explains.
        crop_fraction: share of the sides of the largest centred crop that is kept.

    Attributes:
        size: number of images of the whole source.
        indices: (N,) int64, the positions in the source of the images that this process reads.
        labelled: whether the images have labels; the batches have None for them otherwise.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        image_size: tuple[int, int],
        batch_size: int,
        device: torch.device | str,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
        cache_images: str = "auto",
        crop_fraction: float = 1.0,
    ) -> None:
        self.device = torch.device(device)
        self.size = len(source)
        self.indices = torch.arange(self.size)[rank::world_size]
        self.labels = source.labels[self.indices]
        self.labelled = source.labelled
        self.batch_size = batch_size
        own = source if world_size == 1 else source.subset(self.indices)
        self.pixels: Tensor | None = None
        if len(own) and memory.keeps(own, image_size, cache_images):
            self.pixels = memory.on_device(memory.keep(own, image_size, workers, crop_fraction), self.device)
        else:
            self._plan = BatchPlan()
            self._decoded = start_workers(
                FittedImages(own, image_size, crop_fraction), self._plan, workers, self.device
            )

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.at(torch.arange(len(self.indices)))

    def at(self, positions: Tensor) -> Iterator[Batch]:
        """Batches of some of the images only.

        Args:
            positions: (M,) int64, positions in `indices`.
        """
        parts = [part for part in positions.split(self.batch_size) if len(part)]
        kept = self.pixels
        if kept is None:
            self._plan.batches = [part.tolist() for part in parts]
        decoded = self._decoded if kept is None else (kept[part.to(kept.device)] for part in parts)
        for part, pixels in zip(parts, decoded, strict=True):
            pixels, labels, indices = (
                memory.send(tensor, self.device) for tensor in (pixels, self.labels[part], self.indices[part])
            )
            yield _batch(augment.to_float(pixels), labels, indices, self.labelled)


def _batch(images: Tensor, labels: Tensor, indices: Tensor, labelled: bool) -> Batch:
    return Batch(images, labels if labelled else None, indices)  # type: ignore[arg-type]


class _Images:
    """The images of a loader's batches, without the rest; the loader is made when they are first asked for."""

    def __init__(self, make: Callable[[], EvalLoader]) -> None:
        self._make = make
        self._loader: EvalLoader | None = None

    def __iter__(self) -> Iterator[Tensor]:
        self._loader = self._loader or self._make()
        return (batch.images for batch in self._loader)


def _check(images: int, shares: Shares, options: DataOptions) -> None:
    check_ranges(options)
    shares.check(images)
    if (options.mixup or options.cutmix) and shares.micro_batch % 2:
        raise UserError(
            f"--mixup and --cutmix mix pairs, but a device gets {shares.micro_batch} images at a time: change "
            "--batch_size"
        )
