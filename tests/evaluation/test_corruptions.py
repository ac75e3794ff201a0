"""Common corruptions: stronger with the severity, the same whatever the batch, and what the paper says they are."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from crossdistill.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt


def smooth_images(count: int, size: int) -> torch.Tensor:
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("size", [32, 128])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_stronger_with_the_severity(name: str, size: int) -> None:
    images = smooth_images(6, size)
    changes = []
    for severity in SEVERITIES:
        corrupted = corrupt(images, name, severity, torch.arange(6))
        assert corrupted.shape == images.shape
        assert corrupted.min() >= 0
        assert corrupted.max() <= 1
        changes.append((corrupted - images).abs().mean().item())
    assert changes[0] > 0
    # Grids that happen to lie well leave neighbours close.
    assert all(later > 0.9 * earlier for earlier, later in itertools.pairwise(changes)), changes
    assert changes[-1] > 1.2 * changes[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_function_of_the_image_alone(name: str) -> None:
    images = smooth_images(4, 32)
    together = corrupt(images, name, 3, torch.tensor([7, 3, 11, 5]))
    alone = torch.cat([corrupt(images[k : k + 1], name, 3, torch.tensor([i])) for k, i in enumerate((7, 3, 11, 5))])
    assert (together - alone).abs().max() <= 1.001 / 255  # sums of a blur may round to the next level


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise"])
def test_every_image_has_its_own_noise(name: str) -> None:
    grey = torch.full((2, 3, 32, 32), 0.5)
    first, second = corrupt(grey, name, 3, torch.tensor([0, 1]))
    assert not torch.equal(first, second)


def test_strength_of_the_noise() -> None:
    grey = torch.full((8, 3, 32, 32), 0.5)
    indices = torch.arange(8)
    assert corrupt(grey, "gaussian_noise", 5, indices).std().item() == pytest.approx(0.10, rel=0.05)
    # A Poisson variable of mean m has variance m: with 50 photons at white, 25 here.
    assert corrupt(grey, "shot_noise", 5, indices).std().item() == pytest.approx(0.1, rel=0.05)
    changed = corrupt(grey, "impulse_noise", 5, indices)
    assert (changed == 1).float().mean().item() == pytest.approx(0.035, rel=0.1)
    assert (changed == 0).float().mean().item() == pytest.approx(0.035, rel=0.1)


def test_brightness_keeps_the_hue() -> None:
    colour = torch.tensor([0.4, 0.2, 0.1]).reshape(1, 3, 1, 1).expand(1, 3, 32, 32)
    brighter = corrupt(colour, "brightness", 5, torch.tensor([0]))[0, :, 0, 0]
    torch.testing.assert_close(brighter, torch.tensor([0.7, 0.35, 0.175]), atol=0.6 / 255, rtol=0)


def test_contrast_keeps_the_mean() -> None:
    images = smooth_images(2, 32)
    flat = corrupt(images, "contrast", 5, torch.arange(2))
    torch.testing.assert_close(flat.mean(dim=(2, 3)), images.mean(dim=(2, 3)), atol=1 / 255, rtol=0)
    torch.testing.assert_close(flat.std(dim=(2, 3)), 0.15 * images.std(dim=(2, 3)), atol=1 / 255, rtol=0)
