import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from crossdistill.data import augment, draws


def make_keys(count: int, stream: int = draws.CROP, seed: int = 0) -> torch.Tensor:
    return draws.keys(stream, seed, 0, torch.arange(count))


def make_images(count: int, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


NOT_FLIPPED = torch.zeros(64, dtype=torch.bool)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    least=st.floats(0.0, 1.0),
)
def test_random_box_lies_in_the_image(seed: int, size: tuple[int, int], least: float):
    top, left, height, width = augment.random_box(make_keys(50, seed=seed), size, (least, 1.0), augment.CROP_RATIO)
    assert (top >= 0).all() and (left >= 0).all() and (height >= 1).all() and (width >= 1).all()
    assert (top + height <= size[0]).all() and (left + width <= size[1]).all()
    assert all((side == side.round()).all() for side in (top, left, height, width))


def test_random_box_has_the_areas_and_ratios_of_torchvision():
    _, _, height, width = augment.random_box(make_keys(4000), (200, 200), (0.2, 0.6), augment.CROP_RATIO)
    torch.manual_seed(0)
    image = torch.zeros(3, 200, 200)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(image, [0.2, 0.6], list(augment.CROP_RATIO)) for _ in range(4000)]
    ).float()
    for ours, reference in (
        (height * width, theirs[:, 2] * theirs[:, 3]),
        (width / height, theirs[:, 3] / theirs[:, 2]),
    ):
        quantiles = torch.tensor([0.1, 0.5, 0.9])
        torch.testing.assert_close(ours.quantile(quantiles), reference.quantile(quantiles), rtol=0.03, atol=0)


def test_resized_crop_shows_the_box_resized():
    images, keys = make_images(8, 40, 48), make_keys(8)
    cropped = augment.resized_crop(images, keys, (32, 24), 0.3, NOT_FLIPPED[:8])
    boxes = torch.stack(augment.random_box(keys, (40, 48), (0.3, 1.0), augment.CROP_RATIO)).long()
    for image, result, (top, left, height, width) in zip(images, cropped, boxes.T.tolist(), strict=True):
        box = image[None, :, top : top + height, left : left + width]
        expected = F.interpolate(box, (32, 24), mode="bilinear", align_corners=False)[0]
        # At its edges the sampling sees a pixel beyond the box, where interpolate repeats the last one.
        torch.testing.assert_close(result[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], atol=1e-5, rtol=0)


def test_whole_image_crop_is_the_image():
    images = make_images(4)
    top, left, height, width = augment.random_box(make_keys(64), (32, 32), (1.0, 1.0), augment.CROP_RATIO)
    whole = (height == 32) & (width == 32)
    assert whole.any() and (top[whole] == 0).all() and (left[whole] == 0).all()
    key = make_keys(64)[whole][:1].repeat(4)
    result = augment.resized_crop(images, key, (32, 32), 1.0, NOT_FLIPPED[:4])
    torch.testing.assert_close(result, images, atol=1e-5, rtol=0)


def test_resized_crop_flips_what_it_shows():
    images, keys = make_images(64), make_keys(64)
    straight = augment.resized_crop(images, keys, (16, 24), 0.3, NOT_FLIPPED)
    flipped = augment.resized_crop(images, keys, (16, 24), 0.3, ~NOT_FLIPPED)
    assert torch.equal(straight.flip(-1), flipped)


def test_shifted_crop_is_a_window_of_the_padded_image():
    images, keys = make_images(64), make_keys(64)
    shifted = augment.shifted_crop(images, keys, NOT_FLIPPED)
    windows = F.pad(images, (4, 4, 4, 4)).unfold(2, 32, 1).unfold(3, 32, 1)  # (B, 3, 9, 9, 32, 32)
    found = (windows == shifted[:, :, None, None]).all(dim=(1, 4, 5)).nonzero()
    assert found[:, 0].unique().numel() == 64
    # Every shift from 0 to 8 occurs in both directions.
    assert found[:, 1].unique().numel() == 9 and found[:, 2].unique().numel() == 9
    assert torch.equal(augment.shifted_crop(images, keys, ~NOT_FLIPPED), shifted.flip(-1))


def test_shifted_crop_keeps_bytes_and_shape_of_a_wide_image():
    images = torch.randint(0, 256, (5, 3, 16, 40), dtype=torch.uint8)
    shifted = augment.shifted_crop(images, make_keys(5), NOT_FLIPPED[:5])
    assert shifted.shape == images.shape and shifted.dtype == torch.uint8


def test_erase_fills_one_rectangle_with_one_colour():
    images, keys = make_images(64), make_keys(64, draws.ERASE)
    erased = augment.erase(images, keys, 1.0)
    for before, after in zip(images, erased, strict=True):
        changed = (before != after).any(dim=0)
        rows, columns = changed.any(dim=1).nonzero().flatten(), changed.any(dim=0).nonzero().flatten()
        assert changed.sum() == len(rows) * len(columns)
        assert 0.01 < changed.float().mean() < 0.36
        assert len(after[:, changed].unique(dim=1).T) == 1
    share = (augment.erase(images, keys, 0.25) != images).flatten(1).any(dim=1).float().mean()
    assert 0.1 < share < 0.4
    assert torch.equal(augment.erase(images, keys, 0.0), images)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_coin_has_its_probability(probability: float):
    share = augment.coin(make_keys(5000, draws.FLIP), probability).float().mean()
    assert abs(share - probability) < 0.03 and (0 < probability < 1 or share == probability)


def test_an_image_is_treated_alike_in_any_batch():
    images, keys = make_images(67), make_keys(67)
    flipped = augment.coin(keys, 0.5)
    order = torch.randperm(67, generator=torch.Generator().manual_seed(0))[:41]

    def all_of_it(images: torch.Tensor, keys: torch.Tensor, flipped: torch.Tensor) -> list[torch.Tensor]:
        cropped = augment.resized_crop(images, keys, (24, 24), 0.2, flipped)
        return [cropped, augment.shifted_crop(images, keys, flipped), augment.erase(images, keys, 0.5)]

    for whole, part in zip(
        all_of_it(images, keys, flipped), all_of_it(images[order], keys[order], flipped[order]), strict=True
    ):
        assert torch.equal(whole[order], part)
