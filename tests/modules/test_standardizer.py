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


def test_vectors_are_standardised_like_maps_of_one_position() -> None:
    vectors = torch.randn(16, 3) * 4 + 2
    one, other = Standardizer(3), Standardizer(3)
    one.measure(vectors)
    other.measure(vectors[:, :, None, None])
    assert one.state_dict().keys() == other.state_dict().keys()
    torch.testing.assert_close(one(vectors), other(vectors[:, :, None, None])[..., 0, 0])
    torch.testing.assert_close(one(vectors).std(dim=0, correction=0), torch.ones(3))


def test_one_that_is_switched_off_changes_nothing_and_keeps_nothing() -> None:
    standardizer = Standardizer(3, enabled=False)
    feature = torch.randn(2, 3, 4, 4)
    standardizer.measure(feature)
    assert torch.equal(standardizer(feature), feature)
    assert not standardizer.state_dict()
