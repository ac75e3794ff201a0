"""Regions of a map, and aligners to the shape of a stage."""

import torch

from crossdistill.methods.pat.projectors import RegionProjector, TokensToMap, TokensToTokens


def test_region_projector_has_the_published_patches() -> None:
    for side, patch in ((56, 14), (28, 7), (14, 4), (7, 2), (3, 1)):
        projector = RegionProjector(8, (side, side), side=4, width=16)
        assert projector.regions.kernel_size == (patch, patch)
        assert projector(torch.rand(2, 8, side, side)).shape == (2, 16, 16)


def test_aligners_give_the_shape_of_a_stage_for_one_image_too() -> None:
    tokens = torch.rand(1, 16, 32)
    for size in ((14, 14), (7, 7), (3, 5), (1, 1)):
        assert TokensToMap(32, 8, size).train()(tokens).shape == (1, 8, *size)
        assert TokensToTokens(16, 32, 8, size).train()(tokens).shape == (1, 8, *size)
