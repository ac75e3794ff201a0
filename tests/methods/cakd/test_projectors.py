"""CAKD's projectors on every grid."""

import math

import pytest
import torch

from crossdistill.methods.cakd.cakd import (
    ConvolutionProjector,
    GroupWiseLinear,
    LinearProjector,
)


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ((14, 14), [16, 16, 16, 8, 16, 16, 16, 8, 16, 16, 16, 8, 8, 8, 8, 4]),
        ((7, 7), [16, 12, 12, 9]),
        ((5, 9), [16, 16, 4, 4, 4, 1]),
        ((2, 3), [6]),
        ((1, 1), [1]),
    ],
)
def test_groups_are_blocks_of_neighbours(size: tuple[int, int], counts: list[int]) -> None:
    layer = GroupWiseLinear(channels=2, width=1, size=size, dropout=0.0)
    assert layer.bias.shape[0] == len(counts)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias[:, 0, 0] = torch.arange(len(counts))
    groups = layer(torch.randn(1, 2, *size)).reshape(size).long()
    columns = math.ceil(size[1] / 4)
    expected = [[columns * (row // 4) + column // 4 for column in range(size[1])] for row in range(size[0])]
    assert groups.tolist() == expected
    assert groups.flatten().bincount().tolist() == counts


def test_group_wise_linear_is_a_linear_layer_for_each_block() -> None:
    layer = GroupWiseLinear(channels=3, width=5, size=(6, 9), dropout=0.0)
    feature = torch.randn(2, 3, 6, 9)
    tokens = layer(feature).reshape(2, 6, 9, 5)
    for row, column, group in ((0, 0, 0), (3, 4, 1), (2, 8, 2), (5, 3, 3), (4, 7, 4), (5, 8, 5)):
        expected = feature[:, :, row, column] @ layer.weight[group] + layer.bias[group]
        torch.testing.assert_close(tokens[:, row, column], expected)


def test_published_sizes_of_the_projectors() -> None:
    # A ResNet's layer3 with 256 and 1024 channels beside a ViT-B/16.
    for channels, expected in ((256, 3_158_016), (1024, 12_595_200)):
        layer = GroupWiseLinear(channels, 768, (14, 14), dropout=0.1)
        assert sum(parameter.numel() for parameter in layer.parameters()) == expected
    parts = ConvolutionProjector(8, heads=12, head_size=64)(torch.randn(2, 8, 14, 14))
    assert all(part.shape == (2, 12, 196, 64) for part in parts)
    assert all(part.shape == (2, 16, 196, 2) for part in LinearProjector(32, 16)(torch.randn(2, 32, 14, 14)))
