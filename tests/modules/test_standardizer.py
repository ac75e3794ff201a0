"""Running statistics of the teacher's features."""

import torch

from crossdistill.modules.standardizer import Standardizer


def test_standardizer_has_the_statistics_of_all_it_saw() -> None:
    standardizer = Standardizer(3)
    seen = [torch.randn(4, 3, 5, 5) * 3 + shift for shift in (0.0, 2.0, -7.0)]
    for feature in seen:
        standardizer.measure(feature)
    result = standardizer(torch.cat(seen))
    torch.testing.assert_close(result.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.std(dim=(0, 2, 3), correction=0), torch.ones(3))


def test_standardizer_does_not_blow_up_a_dead_channel() -> None:
    standardizer = Standardizer(3)
    feature = torch.randn(8, 3, 4, 4)
    feature[:, 1] = 0.0
    standardizer.measure(feature)
    feature[:, 1] = 0.01
    assert standardizer(feature)[:, 1].abs().max() < 1
