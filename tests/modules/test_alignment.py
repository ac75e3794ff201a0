"""The rule of alignment: which stages, which grid, which channels."""

import pytest
import torch
from torch import nn

from crossdistill.modules.alignment import (
    StageAlignment,
    batch_norm,
    first_images,
    match_grids,
    match_stages,
    to_channels,
)
from crossdistill.staged import Stage
from crossdistill.testing import TINY, staged
from crossdistill.testing.contract import draw_batch


def stages(count: int) -> list[Stage]:
    return [Stage(str(k), 8, (4, 4), 8, (4, 4), "NCHW", 0, ()) for k in range(count)]


def test_stages_are_matched_from_the_last_backwards() -> None:
    assert match_stages(stages(4), stages(4)) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert match_stages(stages(3), stages(4)) == [(0, 1), (1, 2), (2, 3)]
    assert match_stages(stages(4), stages(2)) == [(2, 0), (3, 1)]


@pytest.mark.parametrize(
    ("student", "teacher", "common"),
    [
        ((14, 14), (7, 7), (7, 7)),
        ((4, 4), (8, 8), (4, 4)),
        ((7, 7), (7, 7), (7, 7)),
        ((16, 16), (7, 7), (7, 7)),
        ((6, 10), (3, 5), (3, 5)),
        ((14, 3), (7, 6), (7, 3)),
        ((9, 5), (4, 7), (4, 5)),
    ],
)
def test_grids_meet_at_the_coarser_side(
    student: tuple[int, int], teacher: tuple[int, int], common: tuple[int, int]
) -> None:
    ours, theirs = match_grids(torch.randn(2, 3, *student), torch.randn(2, 3, *teacher))
    assert ours.shape == theirs.shape == (2, 3, *common)


def test_pooling_is_the_plain_mean_of_what_shares_a_position() -> None:
    fine = torch.randn(1, 2, 14, 14)
    pooled, unchanged = match_grids(fine, coarse := torch.randn(1, 2, 7, 7))
    assert torch.equal(unchanged, coarse)
    torch.testing.assert_close(pooled[..., 2, 5], fine[..., 4:6, 10:12].mean((2, 3)))


def test_pairs_of_two_architectures_meet_on_one_grid() -> None:
    student, teacher = staged("cnn", TINY["cnn"]), staged("vit", TINY["vit"])
    alignment = StageAlignment(student, teacher, owner="test").eval()
    images, _ = draw_batch()
    with torch.no_grad():
        aligned = alignment(student(images), teacher(images))
    assert alignment.numbers == [1, 2, 3, 4]
    # 8x8, 4x4, 2x2 and 1x1 beside 4x4 patches throughout; the class token is not among them.
    assert alignment.sizes == [(4, 4), (4, 4), (2, 2), (1, 1)]
    for (ours, theirs), size, (student_stage, teacher_stage) in zip(
        aligned, alignment.sizes, alignment.pairs, strict=True
    ):
        assert ours.shape == (4, student_stage.channels, *size)
        assert theirs.shape == (4, teacher_stage.channels, *size)
    torch.testing.assert_close(aligned[-1][1][..., 0, 0], teacher(images).features[-1].mean(dim=(2, 3)))


def test_what_is_compared_is_standardised_on_the_common_grid() -> None:
    student, teacher = staged("cnn", TINY["cnn"]), staged("vit", TINY["vit"])
    alignment = StageAlignment(student, teacher, standardize=True, owner="test").train()
    outputs = [teacher(draw_batch(seed=seed)[0]) for seed in (1, 2)]
    for output in outputs:
        alignment.measure(output)
    alignment.eval()
    targets = [[theirs for _, theirs in alignment(student(draw_batch()[0]), output)] for output in outputs]
    for of_stage in zip(*targets, strict=True):
        both = torch.cat(of_stage)
        torch.testing.assert_close(both.mean(dim=(0, 2, 3)), torch.zeros(both.shape[1]), atol=1e-4, rtol=0)
        torch.testing.assert_close(both.std(dim=(0, 2, 3), correction=0), torch.ones(both.shape[1]), atol=1e-3, rtol=0)
    assert set(alignment.statistics("alignment")) == {f"alignment.{name}" for name, _ in alignment.named_buffers()}


def test_projectors_begin_small() -> None:
    layer = to_channels(256, 512)
    assert layer.weight.shape == (512, 256, 1, 1)
    assert layer(torch.randn(8, 256, 2, 2)).std() < 0.5


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_batch_norm_of_a_single_vector_takes_the_running_statistics(shape: tuple[int, ...]) -> None:
    norm = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(3).train()
    norm.running_mean = mean = torch.tensor([1.0, 2.0, 3.0])
    x = torch.randn(shape)
    torch.testing.assert_close(batch_norm(norm, x).flatten(), x.flatten() - mean, rtol=1e-4, atol=0)
    # Four equal ones have statistics: their mean is what each is.
    several = batch_norm(norm, x.repeat(4, *(1 for _ in shape[1:])))
    torch.testing.assert_close(several, torch.zeros_like(several), rtol=0, atol=1e-3)


def test_statistics_need_not_see_all_images() -> None:
    batches = (torch.zeros(400, 1) for _ in range(10))
    assert len(list(first_images(batches))) == 3
    assert len(list(first_images([torch.zeros(4, 1)]))) == 1
