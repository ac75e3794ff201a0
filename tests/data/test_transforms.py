import random

import numpy as np
import pytest
import torch
from PIL import Image

from crossdistill.data.transforms import TrainTransform, seeded
from crossdistill.errors import UserError
from crossdistill.options import TrainingOptions


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))


def global_states() -> tuple:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_seeded_draws_the_same_and_puts_the_states_back():
    before = global_states()
    numbers = []
    for _ in range(2):
        with seeded(2**62 + 5):
            numbers.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert numbers[0] == numbers[1]
    with pytest.raises(RuntimeError), seeded(1):
        raise RuntimeError
    assert global_states() == before


@pytest.mark.parametrize(
    "options",
    [
        {"crop": "resized"},
        {"crop": "shifted"},
        {"crop": "none"},
        {"crop": "resized", "color_jitter": 0.4},
        {"crop": "shifted", "rand_augment": "rand-m9-mstd0.5-inc1"},
    ],
)
def test_outcome_is_a_function_of_image_and_seed(image: Image.Image, options: dict):
    transform = TrainTransform((24, 40), TrainingOptions(**options))
    before = global_states()
    first, other = transform(image, 1), transform(image, 2)
    torch.rand(3)
    random.random()
    assert torch.equal(first, transform(image, 1))
    assert first.shape == (3, 24, 40) and first.dtype == torch.uint8
    # Without a random crop only the flip is left to differ.
    assert options == {"crop": "none"} or not torch.equal(first, other)
    assert global_states()[0] != before[0]  # by this test's own draws alone


def test_the_strongest_policy_runs(image: Image.Image):
    # Every operation at full strength many times over: timm's posterisation to 0 bits is an error in Pillow 13.
    transform = TrainTransform((16, 16), TrainingOptions(rand_augment="rand-m10-n8-inc1"))
    assert len({transform(image, seed).sum().item() for seed in range(60)}) > 40


@pytest.mark.parametrize("policy", ["augment-m9", "rand-mx9", "rand-q3"])
def test_a_policy_that_cannot_be_read_is_refused(policy: str):
    with pytest.raises(UserError, match=r"--rand_augment .*timm's notation"):
        TrainTransform((16, 16), TrainingOptions(rand_augment=policy))
