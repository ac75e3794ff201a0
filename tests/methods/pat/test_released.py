"""PAT's released formulas."""

import pytest
import torch

from crossdistill.methods.pat.prompt import PromptBlock
from crossdistill.testing.tiny_models import SIDE, TINY
from pat.helpers import batch, make


def test_released_gates_are_not_applied_so_that_a_prompt_is_one_number_per_channel() -> None:
    block = PromptBlock(16, (6, 6), (16, 6, 6), gate_only=True)
    block.scale.data.fill_(1.0)
    feature, told = torch.randn(2, 16, 6, 6), torch.randn(2, 16, 6, 6)
    added = block(feature, told) - feature
    torch.testing.assert_close(added, added.mean(dim=(2, 3), keepdim=True).expand_as(added), atol=1e-5, rtol=0)
    assert added.abs().max() > 0


@pytest.mark.parametrize("teacher", TINY)
def test_released_prompts_scramble_tokens_and_leave_maps(teacher: str) -> None:
    method = make(teacher, "cnn", variant="released", feedback="none")
    feature, prefix = method.teacher.enter(torch.rand(2, 3, SIDE, SIDE))
    stage = method.teacher.stages[0]
    after, after_prefix = method._prompt(1, feature, prefix, None, stage.layout)
    if stage.layout == "NCHW":
        assert torch.equal(after, feature)
        return
    # All tokens in a row, the last ones (as many as there are prefix tokens) set aside.
    tokens = feature.flatten(2).transpose(1, 2)
    tokens = tokens if prefix is None else torch.cat([prefix, tokens], dim=1)
    places = feature.shape[2] * feature.shape[3]
    grid = tokens[:, :places].transpose(1, 2).contiguous()
    expected = torch.cat([grid.view(2, places, -1), tokens[:, places:]], dim=1)
    actual = after.flatten(2).transpose(1, 2)
    actual = actual if after_prefix is None else torch.cat([after_prefix, actual], dim=1)
    assert torch.equal(actual, expected) and not torch.allclose(actual, tokens)


def test_released_positional_code_counts_images() -> None:
    image = torch.rand(1, 3, SIDE, SIDE).expand(3, -1, -1, -1)
    for variant, same in (("paper", True), ("released", False)):
        method = make("vit", "cnn", variant=variant).eval()
        regions = torch.cat(method.regions(method.student(image).features), dim=1)
        assert torch.allclose(regions[0], regions[2], atol=1e-5) == same


def test_released_features_are_raw_and_the_class_token_is_among_them() -> None:
    method = make("vit", "cnn", variant="released", prompt_stages=[])
    assert method.regularization_weight == 1.0 and not method.standardizers
    assert make("vit", "cnn").regularization_weight == 10.0
    clean = method.teach(batch(2)[0])
    features, _ = method._prompted_teacher(batch(2)[0], clean, {})
    assert torch.equal(features[4][:, :, 0, 0], clean.prefix[3][:, 0])
    assert torch.equal(features[4][:, :, 0, 1], clean.features[3][:, :, 0, 0])
