"""What is kept of a teacher's outputs, and how exactly it is read back."""

import pytest
import torch

from crossdistill.cache.columns import Form, columns_of
from crossdistill.errors import UserError
from crossdistill.staged import Outputs, StagedModel
from crossdistill.testing import SIDE, TINY, staged


@pytest.fixture(scope="module")
def vit() -> StagedModel:
    return staged("distilled", TINY["distilled"]).eval()


@pytest.fixture(scope="module")
def outputs(vit: StagedModel) -> Outputs:
    with torch.no_grad():
        return vit(torch.rand(2, 3, SIDE, SIDE))


def test_columns_are_named_by_what_a_method_reads(vit: StagedModel) -> None:
    assert columns_of({"logits", "features.2", "prefix.2", "segments"}, vit, "M") == [
        "features.2",
        "logits",
        "prefix.2",
    ]
    assert columns_of({"head_logits"}, vit, "M") == ["head_logits.class", "head_logits.distillation"]
    assert columns_of({"features"}, vit, "M") == [f"features.{k}" for k in (1, 2, 3, 4)]
    # A CNN has no tokens beside its map.
    cnn = staged("cnn", TINY["cnn"])
    assert columns_of({"prefix", "pooled"}, cnn, "M") == ["pooled"]


@pytest.mark.parametrize(("word", "reason"), [("attention", "queries, keys and values"), ("views", "other images")])
def test_what_plain_outputs_do_not_hold_is_refused_by_name(word: str, reason: str, vit: StagedModel) -> None:
    with pytest.raises(UserError, match=f"Mine cannot be served by one, it .*{reason}"):
        columns_of({"logits", word}, vit, "Mine")


def test_outputs_are_read_back_as_they_were(vit: StagedModel, outputs: Outputs) -> None:
    columns = columns_of({"logits", "head_logits", "features.3", "prefix", "final", "pooled"}, vit, "M")
    again = Form().decode(Form().encode(outputs, columns), columns, vit)
    assert torch.equal(again.logits, outputs.logits)
    assert torch.equal(again.final, outputs.final) and torch.equal(again.pooled, outputs.pooled)
    assert torch.equal(again.features[2], outputs.features[2])
    assert all(torch.equal(one, two) for one, two in zip(again.prefix, outputs.prefix, strict=True))
    assert again.head_logits.keys() == outputs.head_logits.keys()
    assert again.features[0] is None and again.attention is None


def test_top_k_logits_keep_their_probabilities_and_share_out_the_rest(vit: StagedModel) -> None:
    logits = torch.tensor([[4.0, -1.0, 2.0], [0.0, 0.5, -2.0]])
    form = Form(top_k=2)
    stored = form.encode(Outputs(logits=logits), ["logits"])
    assert list(stored) == form.stored(["logits"]) == ["logits.values", "logits.classes", "logits.rest"]
    again = form.decode(stored, ["logits"], vit).logits
    # With a single class left, nothing is lost.
    torch.testing.assert_close(again, logits)
    one = Form(top_k=1)
    again = one.decode(one.encode(Outputs(logits=logits), ["logits"]), ["logits"], vit).logits
    expected, actual = logits.softmax(dim=1), again.softmax(dim=1)
    torch.testing.assert_close(actual[0, 0], expected[0, 0])
    torch.testing.assert_close(actual[0, 1:], expected[0, 1:].mean().expand(2))
    torch.testing.assert_close(actual[1, 1], expected[1, 1])
    assert torch.equal(again.argmax(dim=1), logits.argmax(dim=1))


def test_more_logits_than_there_are_classes_are_refused() -> None:
    with pytest.raises(UserError, match="--teacher_cache_top_k 3: the teacher has 3 classes"):
        Form(top_k=3).encode(Outputs(logits=torch.zeros(2, 3)), ["logits"])


def test_float16_rounds_and_refuses_what_it_cannot_hold(vit: StagedModel) -> None:
    form = Form(dtype="float16")
    pooled = torch.randn(2, 8)
    stored = form.encode(Outputs(pooled=pooled), ["pooled"])
    assert stored["pooled"].dtype == torch.float16
    again = form.decode(stored, ["pooled"], vit).pooled
    assert again.dtype == torch.float32
    torch.testing.assert_close(again, pooled, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="the teacher's pooled reach 1e\\+05, beyond what float16 holds"):
        form.encode(Outputs(pooled=torch.full((2, 8), 1e5)), ["pooled"])
