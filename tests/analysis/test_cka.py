"""Minibatch CKA against its definition, and what it must and must not see."""

import pytest
import torch
from torch import Tensor

from crossdistill.analysis.cka import MinibatchCKA, linear_kernel, unbiased_hsic


def _features(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _hsic_by_definition(x: Tensor, y: Tensor) -> float:
    """The U-statistic that HSIC_1 estimates with: the mean of its kernel over all ordered quadruples of images."""
    k, l_ = (x @ x.T).tolist(), (y @ y.T).tolist()
    n, total, count = len(x), 0.0, 0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += k[i][j] * (l_[i][j] + l_[q][r] - 2 * l_[i][q])
                        count += 1
    return total / count


def _cka(*features: Tensor, batch_size: int) -> Tensor:
    cka = MinibatchCKA()
    for parts in zip(*(feature.split(batch_size) for feature in features), strict=True):
        cka.add(parts)
    return cka.result()


def test_the_estimator_is_the_u_statistic_over_quadruples_of_images() -> None:
    x, y = _features(7, 3) + 5, _features(7, 4, seed=1)
    y = y + 0.5 * x.mean(dim=1, keepdim=True)
    # The kernels are centred in float32 and multiplied there.
    hsic = unbiased_hsic(torch.stack([linear_kernel(x), linear_kernel(y)]))
    for i, first in enumerate((x, y)):
        for j, second in enumerate((x, y)):
            assert hsic[i, j].item() == pytest.approx(_hsic_by_definition(first, second), rel=1e-5)


def test_cka_is_the_ratio_of_means_over_batches_a_smaller_last_batch_weighted_by_its_images() -> None:
    x, y = _features(13, 3), _features(13, 2, seed=1)
    y = y + x[:, :2]
    means = torch.zeros(3, dtype=torch.float64)
    # The last batch has three images, of which nothing can be estimated.
    for n, a, b in zip((5, 5), x.split(5), y.split(5), strict=False):
        means += n * torch.tensor([_hsic_by_definition(*pair) for pair in ((a, b), (a, a), (b, b))])
    expected = means[0] / (means[1] * means[2]).sqrt()
    assert _cka(x, y, batch_size=5)[0, 1].item() == pytest.approx(expected.item(), rel=1e-5)


def test_rotated_scaled_and_shifted_features_are_the_same() -> None:
    x = _features(96, 8, 2, 2)
    rotation = torch.linalg.qr(_features(32, 32, seed=1)).Q
    turned = 7 * x.flatten(1) @ rotation + 3
    result = _cka(x, turned, batch_size=32)
    torch.testing.assert_close(result, torch.ones(2, 2, dtype=torch.float64), rtol=1e-5, atol=1e-5)


def test_independent_features_are_near_zero_whatever_the_batch() -> None:
    """The biased estimator would give about 0.9 here: there are far more features than images in a batch."""
    x, y = _features(1024, 300), _features(1024, 300, seed=1)
    for batch_size in (16, 128):
        assert abs(_cka(x, y, batch_size=batch_size)[0, 1].item()) < 0.05


def test_places_count() -> None:
    """The same values at other places are another map, though their means over positions agree."""
    x = _features(256, 4, 3, 3)
    moved = torch.stack([torch.roll(image, i % 9 // 3, dims=1).roll(i % 3, dims=2) for i, image in enumerate(x)])
    pooled = [feature.mean(dim=(2, 3)) for feature in (x, moved)]
    assert _cka(*pooled, batch_size=64)[0, 1].item() == pytest.approx(1, abs=1e-5)
    assert _cka(x, moved, batch_size=64)[0, 1].item() < 0.5


def test_a_stage_that_says_the_same_of_every_image_has_no_cka() -> None:
    result = _cka(_features(8, 3), torch.ones(8, 3), batch_size=8)
    assert result[0, 0] == 1 and result[0, 1].isnan() and result[1, 1].isnan()
