"""Attention over the regions of all stages."""

import math

import torch
import torch.nn.functional as F

from crossdistill.methods.pat.attention import RegionAttention, sinusoidal_code
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import SIDE, TINY
from pat.helpers import batch, make


def test_without_region_attention_stages_do_not_see_each_other() -> None:
    for attention in (True, False):
        method = make("vit", "cnn", region_attention=attention).eval()
        features = method.student(batch()[0]).features
        before = method.regions(features)
        after = method.regions([features[0] + 1, *features[1:]])
        assert not torch.allclose(before[0], after[0])
        assert torch.equal(before[3], after[3]) != attention


def test_region_attention_is_the_equation() -> None:
    student = StagedModel(TINY["cnn"](), name="cnn", image_size=SIDE)
    attention = RegionAttention(student.stages, side=4, width=32, heads=4).eval()
    features = student(torch.rand(2, 3, SIDE, SIDE)).features
    tokens = torch.cat([project(f) for project, f in zip(attention.projectors, features, strict=True)], dim=1)
    tokens = attention.norm(tokens)
    code = sinusoidal_code(64, 32, tokens)
    query = attention.to_query(tokens) + code
    key = F.linear(tokens, attention.to_key_value.weight[:32], attention.to_key_value.bias[:32]) + code
    value = F.linear(tokens, attention.to_key_value.weight[32:], attention.to_key_value.bias[32:])
    heads = []
    for h in range(4):
        channels = slice(8 * h, 8 * h + 8)
        weights = (query[..., channels] @ key[..., channels].mT / math.sqrt(8)).softmax(dim=2)
        heads.append(weights @ value[..., channels])
    expected = torch.cat(heads, dim=2).split(16, dim=1)
    for actual, stage in zip(attention(features), expected, strict=True):
        torch.testing.assert_close(actual, stage)


def test_sinusoidal_code_by_hand() -> None:
    code = sinusoidal_code(3, 4, torch.zeros(1))
    expected = [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)]
    torch.testing.assert_close(code[2], torch.tensor(expected))
