"""Layouts: maps to native tensors and back, and what a shape can mean."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdistill.staged.layout import Grid, find_glue, from_map, possible_grids, to_map

sides = st.integers(1, 6)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["NCHW", "NHWC", "NLC"]), st.integers(1, 3), st.integers(1, 5), sides, sides, st.integers(0, 3))
def test_layouts_round_trip(layout: str, batch: int, channels: int, height: int, width: int, tokens: int) -> None:
    grid = Grid(layout, channels, (height, width), tokens if layout == "NLC" else 0)
    feature = torch.randn(batch, channels, height, width)
    prefix = torch.randn(batch, grid.prefix_tokens, channels) if grid.prefix_tokens else None
    feature_back, prefix_back = to_map(from_map(feature, prefix, grid), grid)
    assert torch.equal(feature_back, feature)
    assert (prefix_back is None) if prefix is None else torch.equal(prefix_back, prefix)


def test_tokens_lie_row_by_row_behind_the_prefix() -> None:
    tokens = torch.arange(7.0).reshape(1, 7, 1)
    feature, prefix = to_map(tokens, Grid("NLC", 1, (2, 3), 1))
    assert feature.tolist() == [[[[1, 2, 3], [4, 5, 6]]]]
    assert prefix.tolist() == [[[0]]]


def test_wrong_numbers_of_tokens_are_refused() -> None:
    grid = Grid("NLC", 4, (2, 2), 1)
    with pytest.raises(ValueError, match="do not fill the grid of 2x2"):
        to_map(torch.zeros(1, 7, 4), grid)
    with pytest.raises(ValueError, match="0 prefix tokens given where the model has 1"):
        from_map(torch.zeros(1, 4, 2, 2), None, grid)


@pytest.mark.parametrize(
    ("shape", "image_size", "known", "expected"),
    [
        ((1, 96, 7, 7), (224, 224), {}, Grid("NCHW", 96, (7, 7))),
        ((1, 7, 7, 96), (224, 224), {}, Grid("NHWC", 96, (7, 7))),
        ((1, 96, 3, 5), (96, 160), {}, Grid("NCHW", 96, (3, 5))),
        ((1, 3, 5, 96), (96, 160), {}, Grid("NHWC", 96, (3, 5))),
        # A side of 65 pixels halves to 33, 17 and 9.
        ((1, 96, 9, 16), (65, 128), {}, Grid("NCHW", 96, (9, 16))),
        ((1, 197, 192), (224, 224), {}, Grid("NLC", 192, (14, 14), 1)),
        ((1, 198, 192), (224, 224), {"reduction": 16}, Grid("NLC", 192, (14, 14), 2)),
        ((1, 61, 192), (96, 160), {"reduction": 16}, Grid("NLC", 192, (6, 10), 1)),
        # 4 patches and 5 tokens, not a 3x3 grid.
        ((1, 9, 192), (32, 32), {"reduction": 16}, Grid("NLC", 192, (2, 2), 5)),
        # LeViT's convolutions count what is left over at the border.
        ((1, 16, 384), (224, 224), {"reduction": 64}, Grid("NLC", 384, (4, 4))),
    ],
)
def test_shapes_are_read(
    shape: tuple[int, ...], image_size: tuple[int, int], known: dict[str, int], expected: Grid
) -> None:
    assert possible_grids(shape, image_size, **known) == [expected]


def test_a_cube_can_be_read_two_ways() -> None:
    assert [grid.layout for grid in possible_grids((1, 8, 8, 8), (32, 32))] == ["NCHW", "NHWC"]


@pytest.mark.parametrize("shape", [(1, 10), (1, 3, 4, 5, 6), (1, 96, 7, 3), (1, 40, 192)])
def test_what_is_no_map_has_no_grid(shape: tuple[int, ...]) -> None:
    assert possible_grids(shape, (64, 64), reduction=16) == []


@pytest.mark.parametrize(
    "after",
    [
        lambda x: x.flatten(1),
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.mean((2, 3)),
    ],
    ids=["flatten", "tokens", "channels last", "mean"],
)
def test_glue_is_found_and_holds_for_other_batches(after: object) -> None:
    one, many = torch.randn(1, 3, 4, 5, dtype=torch.float64), torch.randn(6, 3, 4, 5, dtype=torch.float64)
    glue = find_glue(one, after(one))
    torch.testing.assert_close(glue(many, tuple(after(one).shape[1:])), after(many))


@pytest.mark.parametrize(
    "after", [lambda x: x[:, 0], lambda x: x.mean(1), lambda x: x.transpose(1, 2).unflatten(2, (3, 4))]
)
def test_glue_of_tokens(after: object) -> None:
    one, many = torch.randn(1, 12, 5, dtype=torch.float64), torch.randn(6, 12, 5, dtype=torch.float64)
    glue = find_glue(one, after(one))
    torch.testing.assert_close(glue(many, tuple(after(one).shape[1:])), after(many))


@pytest.mark.parametrize("after", [torch.relu, lambda x: x + 1, lambda x: x.flip(2), lambda x: x.amax((2, 3))])
def test_what_computes_is_no_glue(after: object) -> None:
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    assert find_glue(x, after(x)) is None
