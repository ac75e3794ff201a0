"""Which images lie where in a cache."""

import dataclasses

import pytest
import torch

from crossdistill.cache import streams
from crossdistill.cache.streams import Replay, Static
from crossdistill.data import Mixer, TensorSource, TrainLoader
from crossdistill.options import DataOptions

COUNT = 26


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of eight images a shard."""
    monkeypatch.setattr(streams, "SHARD_IMAGES", 20)


def source() -> TensorSource:
    pixels = torch.randint(256, (COUNT, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return TensorSource(pixels, torch.arange(COUNT) % 3)


def replay(total_steps: int, rank: int = 0, world_size: int = 1, accumulate: int = 2) -> Replay:
    train = TrainLoader(
        source(),
        image_size=(8, 8),
        batch_size=8,
        accumulate=accumulate,
        rank=rank,
        world_size=world_size,
        data_seed=3,
        device="cpu",
        options=DataOptions(),
    )
    return Replay(train, Mixer(3, 0.0, 0.5, 0.5, 3), total_steps)


def test_every_micro_batch_of_the_run_has_its_rows() -> None:
    stream = replay(total_steps=8)
    assert stream.train.steps_per_epoch == 3
    written = {}
    for (place,) in stream.rounds():
        assert place is not None
        written[place] = torch.cat([batch.images for batch in stream.batches(place)])
        assert len(written[place]) == place.images
    assert [place.name for place in written] == [
        f"epoch{epoch:04d}-part{part:03d}-rank0" for epoch in range(3) for part in range(2)
    ][: len(written)]
    # As the trainer takes them.
    step = 0
    for epoch in range(3):
        batches = stream.train.epoch(epoch)
        for _ in range(3):
            for micro in range(2):
                batch = next(batches)
                if step < 8:
                    images, _ = stream.mixer(batch.images, batch.labels, step=step)
                    place, row = stream.locate(step, micro)
                    assert torch.equal(written[place][row : row + 4], images)
            step += 1
    # The last epoch is cut, and so is its shard.
    assert sum(place.images for place in written) == 8 * 8


def test_processes_have_shards_of_their_own() -> None:
    both = [replay(3, rank, world_size=2, accumulate=1) for rank in range(2)]
    assert both[0].rounds() == both[1].rounds()
    for first, second in both[0].rounds():
        assert first is not None and second is not None and first.name != second.name
    assert both[1].locate(1, 0)[0] == both[0].rounds()[0][1]


def test_a_longer_run_has_the_shards_of_a_shorter_one() -> None:
    short, long = ([place for (place,) in replay(steps).rounds()] for steps in (7, 9))
    assert long[:4] == short[:4]
    cut, whole = short[4], long[4]
    assert cut is not None and whole is not None
    assert cut.name == whole.name and cut.images < whole.images


@pytest.mark.parametrize("world_size", [1, 3])
def test_single_images_are_dealt_out_to_processes(world_size: int) -> None:
    stream = Static(source(), image_size=(8, 8), device=torch.device("cpu"), workers=0, rank=0, world_size=world_size)
    places = [place for places in stream.rounds() for place in places]
    assert len(places) % world_size == 0
    there = [place for place in places if place is not None]
    assert [place.images for place in there] == [20, 6]
    assert stream.place_of(21) == there[1]
    seen = torch.cat([batch.indices for place in there for batch in stream.batches(place)])
    assert torch.equal(seen, torch.arange(COUNT))


def test_every_option_that_changes_pixels_is_in_the_key() -> None:
    key = replay(3).key()
    unnamed = {field.name for field in dataclasses.fields(DataOptions)} - {name.removeprefix("--") for name in key}
    assert unnamed == {"data", "held_out", "on_bad_image", "cache_images", "workers", "label_smoothing"}
