import pytest
import torch

from crossdistill.data import draws


def test_splitmix_matches_published_outputs():
    # First outputs of the reference implementation (Vigna, splitmix64.c) for the seed 0.
    state = torch.tensor([0, draws._GOLDEN])
    assert [int(z) % 2**64 for z in draws._splitmix(state)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_numbers_depend_on_every_part_of_the_key():
    index = torch.tensor([5])
    base = draws.keys(draws.CROP, 1, 2, index, 3)
    others = [
        draws.keys(draws.FLIP, 1, 2, index, 3),
        draws.keys(draws.CROP, 2, 2, index, 3),
        draws.keys(draws.CROP, 1, 3, index, 3),
        draws.keys(draws.CROP, 1, 2, index + 1, 3),
        draws.keys(draws.CROP, 1, 2, index, 4),
        # The same parts in other places.
        draws.keys(draws.CROP, 2, 1, index, 3),
    ]
    assert len({int(key) for key in [base, *others]}) == 7
    assert torch.equal(base, draws.keys(draws.CROP, 1, 2, index, torch.tensor([3])))


def test_numbers_do_not_depend_on_the_batch():
    indices = torch.arange(100)
    whole = draws.uniforms(draws.keys(draws.CROP, 0, 0, indices), 5)
    part = draws.uniforms(draws.keys(draws.CROP, 0, 0, indices[[70, 3]]), 5)
    assert torch.equal(whole[:, [70, 3]], part)


def test_numbers_are_uniform_and_uncorrelated():
    numbers = draws.uniforms(draws.keys(draws.CROP, 0, 0, torch.arange(20000)), 4)
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = torch.stack([row.histc(20, 0, 1) for row in numbers])
    # Each bin holds 1000 +- 31; five standard deviations.
    assert (counts - 1000).abs().max() < 155
    assert (torch.corrcoef(numbers) - torch.eye(4)).abs().max() < 0.04


@pytest.mark.parametrize("seed", [0, 2**31, 2**63 - 1, 2**64 - 1, -1])
def test_permutation_holds_every_image_once(seed: int):
    order = draws.permutation(1000, seed, 3)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert not torch.equal(order, draws.permutation(1000, seed, 4))
    assert 0 <= draws.seed_of(draws.TRANSFORM, seed, 3, 7) < 2**63
