import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from crossdistill.data import Batch, EvalLoader, FileSource, TensorSource, TrainLoader
from crossdistill.data.images import to_input
from crossdistill.data.sources import ImageSource
from crossdistill.errors import UserError
from crossdistill.options import TrainingOptions

SIZE = (16, 16)


def make_loader(source: ImageSource, batch_size: int = 8, **arguments) -> TrainLoader:
    names = ("image_size", "accumulate", "rank", "world_size", "data_seed")
    loading = {name: arguments.pop(name) for name in names if name in arguments}
    options = TrainingOptions(workers=arguments.pop("workers", 0), **arguments)
    loading = {"image_size": SIZE, "data_seed": 3, **loading}
    return TrainLoader(source, batch_size=batch_size, device="cpu", options=options, **loading)


def joined(batches: list[Batch]) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.cat([batch.images for batch in batches]),
        torch.cat([batch.labels for batch in batches]),
        torch.cat([batch.indices for batch in batches]),
    )


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    for one, other in zip(joined(ours), joined(theirs), strict=True):
        assert torch.equal(one, other)


# In memory and through workers, with everything on that each path can do.
IN_MEMORY = {"crop": "resized", "random_erasing": 0.5}
SHIFTED = {"crop": "shifted", "random_erasing": 0.5, "repeated_augmentation": 2}
IN_WORKERS = {"rand_augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.3, "random_erasing": 0.5}
PATHS = pytest.mark.parametrize("options", [IN_MEMORY, SHIFTED, IN_WORKERS], ids=["memory", "shifted", "workers"])


@PATHS
def test_batches_are_what_they_are_said_to_be(tensor_source: TensorSource, options: dict):
    loader = make_loader(tensor_source, image_size=(12, 20), **options)
    assert (loader.pixels is None) == (options is IN_WORKERS)
    batches = list(loader.epoch(0))
    assert len(batches) == loader.steps_per_epoch == 3
    for batch in batches:
        assert batch.images.shape == (8, 3, 12, 20) and batch.images.dtype == torch.float32
        assert batch.images.min() >= 0 and batch.images.max() <= 1 and batch.images.is_contiguous()
        assert batch.labels.dtype == batch.indices.dtype == torch.int64
        assert torch.equal(batch.labels, tensor_source.labels[batch.indices])


def test_an_epoch_shows_every_image_once_in_a_new_order(tensor_source: TensorSource):
    loader = make_loader(tensor_source)
    orders = [joined(list(loader.epoch(epoch)))[2] for epoch in (0, 1)]
    assert all(torch.equal(order.sort().values, torch.arange(24)) for order in orders)
    assert not torch.equal(orders[0], orders[1])


def test_an_incomplete_batch_is_dropped(tensor_source: TensorSource):
    loader = make_loader(tensor_source, batch_size=10)
    assert loader.steps_per_epoch == 2 and [len(batch.labels) for batch in loader.epoch(0)] == [10, 10]


def test_without_augmentation_images_are_the_pixels(tensor_source: TensorSource):
    batch = next(make_loader(tensor_source, crop="none", flip=0.0).epoch(0))
    assert torch.equal(batch.images, tensor_source.pixels[batch.indices].float() / 255)
    batch = next(make_loader(tensor_source, crop="none", flip=1.0).epoch(0))
    assert torch.equal(batch.images.flip(-1), tensor_source.pixels[batch.indices].float() / 255)
    workers = next(make_loader(tensor_source, crop="none", flip=1.0, cache_images="false").epoch(0))
    assert torch.equal(batch.images, workers.images)


@PATHS
def test_the_same_seed_gives_the_same_epoch_and_another_another(tensor_source: TensorSource, options: dict):
    first = list(make_loader(tensor_source, **options).epoch(2))
    assert_same(first, list(make_loader(tensor_source, **options).epoch(2)))
    assert not torch.equal(first[0].images, next(make_loader(tensor_source, data_seed=4, **options).epoch(2)).images)


@PATHS
@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (1, 2), (2, 2)])
def test_a_global_batch_does_not_depend_on_how_it_is_shared_out(
    tensor_source: TensorSource, options: dict, world_size: int, accumulate: int
):
    whole = list(make_loader(tensor_source, **options).epoch(1))
    ranks = [
        list(make_loader(tensor_source, rank=r, world_size=world_size, accumulate=accumulate, **options).epoch(1))
        for r in range(world_size)
    ]
    assert all(len(batches) == 3 * accumulate for batches in ranks)
    assert_same(whole, [batch for batches in zip(*ranks, strict=True) for batch in batches])


@PATHS
def test_an_epoch_goes_on_in_the_middle(tensor_source: TensorSource, options: dict):
    loader = make_loader(tensor_source, accumulate=2, **options)
    assert_same(list(loader.epoch(1))[4:], list(loader.epoch(1, start_step=2)))
    assert list(loader.epoch(1, start_step=3)) == []


@PATHS
def test_an_image_is_augmented_alike_in_any_batch(tensor_source: TensorSource, options: dict):
    if options is SHIFTED:
        options = SHIFTED | {"repeated_augmentation": 1}
    whole = joined(list(make_loader(tensor_source, batch_size=8, **options).epoch(1)))
    small = joined(list(make_loader(tensor_source, batch_size=3, **options).epoch(1)))
    assert torch.equal(whole[0][whole[2].argsort()], small[0][small[2].argsort()])


@pytest.mark.parametrize("options", [{"crop": "resized"}, IN_WORKERS], ids=["plain", "augmented"])
def test_the_number_of_workers_changes_nothing(file_source: FileSource, options: dict):
    alone = make_loader(file_source, batch_size=4, **options)
    with_workers = make_loader(file_source, batch_size=4, workers=2, **options)
    assert alone.pixels is None and with_workers.pixels is None
    for epoch in (0, 1):
        assert_same(list(alone.epoch(epoch)), list(with_workers.epoch(epoch)))
    # Broken off in the middle, the workers begin the next pass afresh.
    next(with_workers.epoch(0))
    assert_same(list(alone.epoch(2, start_step=1)), list(with_workers.epoch(2, start_step=1)))


@PATHS
def test_the_global_random_states_stay_as_they_were(tensor_source: TensorSource, options: dict):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    loader = make_loader(tensor_source, **options)
    list(loader.epoch(0))
    list(loader.plain(5))
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


@pytest.mark.parametrize(("views", "batch_size"), [(2, 8), (3, 8), (4, 6)])
def test_repeated_augmentation(tensor_source: TensorSource, views: int, batch_size: int):
    loader = make_loader(tensor_source, batch_size, repeated_augmentation=views)
    indices, repetitions = loader._order(0)
    assert len(indices) == 24
    pairs = list(zip(indices.tolist(), repetitions.tolist(), strict=True))
    assert len(set(pairs)) == 24 and len(set(indices.tolist())) == math.ceil(24 / views)
    # Mixing pairs neighbours, which must not be two views of one image.
    assert (indices[0::2] != indices[1::2]).all()
    images, _, seen = joined(list(loader.epoch(0)))
    twins = images[seen == seen[0]]
    assert len(twins) == len(twins.unique(dim=0)) == views


def test_files_are_kept_where_they_are_small(make_folder):
    from crossdistill.data import open_data

    data = open_data(str(make_folder(images=4)))
    loader = make_loader(data.train, batch_size=4, image_size=(32, 32))
    # All of one size, not over twice the target's: kept as they are, for the random resized crop to choose from.
    assert loader.pixels is not None and loader.pixels.shape == (8, 3, 24, 20)
    assert make_loader(data.train, batch_size=4, image_size=(32, 32), crop="shifted").pixels.shape == (8, 3, 32, 32)
    assert make_loader(data.train, batch_size=4, image_size=(8, 8)).pixels.shape == (8, 3, 8, 8)
    assert make_loader(data.train, batch_size=4, cache_images="false").pixels is None
    assert next(loader.epoch(0)).images.shape == (4, 3, 32, 32)


def test_plain_images(tensor_source: TensorSource, file_source: FileSource):
    plain = make_loader(tensor_source, rank=1, world_size=2).plain(10)
    batches = list(plain)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat(batches), torch.cat(list(plain)))
    originals = tensor_source.pixels.float() / 255
    assert all((image == originals).flatten(1).all(dim=1).any() for image in torch.cat(batches))
    assert sum(len(batch) for batch in make_loader(file_source, batch_size=4, crop="none").plain()) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 25}, "24 training images are fewer than --batch_size 25"),
        ({"batch_size": 9, "world_size": 2}, "--batch_size 9 does not divide by 2 devices"),
        ({"batch_size": 8, "accumulate": 3}, "times --accumulate 3"),
        ({"batch_size": 6, "world_size": 2, "mixup": 0.2}, "gets 3 images at a time: change --batch_size"),
        ({"batch_size": 0}, "--batch_size 0: give a number of at least 1"),
        ({"repeated_augmentation": 0}, "--repeated_augmentation: expected a whole number of at least 1, got '0'"),
        ({"flip": 1.5}, "--flip: expected a number from 0 to 1, got '1.5'"),
        ({"color_jitter": -1.0}, "--color_jitter: expected a number of at least 0, got '-1.0'"),
        ({"cache_images": "true", "color_jitter": 0.4}, "--cache_images true does not go with"),
        ({"rand_augment": "strong"}, "--rand_augment strong is no policy"),
    ],
)
def test_impossible_options_are_refused(tensor_source: TensorSource, arguments: dict, message: str):
    with pytest.raises(UserError, match=message):
        make_loader(tensor_source, **arguments)


@pytest.mark.parametrize("cache_images", ["true", "false"])
@pytest.mark.parametrize("crop_fraction", [1.0, 0.8])
def test_evaluation_reads_every_image_as_predict_does(file_source: FileSource, cache_images: str, crop_fraction: float):
    loader = EvalLoader(
        file_source,
        image_size=(20, 24),
        batch_size=5,
        device="cpu",
        workers=0,
        cache_images=cache_images,
        crop_fraction=crop_fraction,
    )
    for _ in range(2):
        images, labels, indices = joined(list(loader))
        assert torch.equal(indices, torch.arange(12)) and torch.equal(labels, file_source.labels)
        expected = to_input([file_source.read(i) for i in range(12)], (20, 24), crop_fraction)
        assert torch.equal(images, expected)
    assert len(loader) == 3 and (loader.pixels is None) == (cache_images == "false")


@pytest.mark.parametrize("world_size", [1, 3, 5, 30])
@pytest.mark.parametrize("cache_images", ["auto", "false"])
def test_evaluation_reads_no_image_twice(tensor_source: TensorSource, world_size: int, cache_images: str):
    seen = []
    for rank in range(world_size):
        loader = EvalLoader(
            tensor_source,
            image_size=SIZE,
            batch_size=4,
            device="cpu",
            workers=0,
            rank=rank,
            world_size=world_size,
            cache_images=cache_images,
        )
        batches = list(loader)
        assert len(batches) == len(loader)
        for batch in batches:
            assert torch.equal(batch.images, tensor_source.pixels[batch.indices].float() / 255)
            assert torch.equal(batch.labels, tensor_source.labels[batch.indices])
            seen += batch.indices.tolist()
    assert sorted(seen) == list(range(24))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("cache_images", ["true", "false"])
def test_a_file_that_goes_away_is_told_in_one_line(file_source: FileSource, workers: int, cache_images: str):
    Path(file_source.paths[5]).unlink()
    with pytest.raises(UserError, match=f"^there is no file {file_source.paths[5]}$"):
        list(
            EvalLoader(
                file_source, image_size=SIZE, batch_size=4, device="cpu", workers=workers, cache_images=cache_images
            )
        )


def test_python_ends_though_an_error_holds_the_workers(file_source: FileSource):
    code = """
import sys
from pathlib import Path
import torch
from crossdistill.data import EvalLoader, FileSource
from crossdistill.errors import UserError
source = FileSource(sys.argv[1:], torch.zeros(len(sys.argv) - 1, dtype=torch.int64))
try:
    list(EvalLoader(source, image_size=(8, 8), batch_size=4, device="cpu", workers=1, cache_images="false"))
except UserError as error:
    kept = error
"""
    Path(file_source.paths[5]).unlink()
    subprocess.run([sys.executable, "-c", code, *file_source.paths], check=True, timeout=120)
