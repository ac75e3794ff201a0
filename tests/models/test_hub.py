"""Pretrained weights where the hub cannot be reached."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from crossdistill.errors import UserError
from crossdistill.models import build_model
from crossdistill.models.hub import check_hub
from crossdistill.options import ModelOptions


class Hub:
    """Stands for the client's session: counts what it is asked, and answers or not."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = False

    def head(self, address: str, timeout: float) -> None:
        assert address == constants.ENDPOINT and timeout <= 5
        self.asked += 1
        if not self.answers:
            raise RuntimeError("no route to host")


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    found = Hub()
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: found)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return found


def put_into_cache(repository: str, file: str = "model.safetensors") -> nn.Module:
    """As the hub's client leaves it behind a download."""
    model = timm.create_model("test_resnet", num_classes=1000)
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(model.state_dict(), folder / "snapshots" / ("0" * 40) / file)
    return model


def refusal(name: str, weights: str = "pretrained", **keywords: Any) -> str:
    with pytest.raises(UserError) as caught:
        build_model(ModelOptions(name), weights=weights, num_classes=3, image_size=(32, 32), **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_hub_out_of_reach_is_told_after_one_question(hub: Hub) -> None:
    expected = (
        "cannot reach https://huggingface.co for the pretrained weights of test_resnet: check the connection, or give "
        "--teacher_weights FILE"
    )
    assert refusal("test_resnet", role="teacher") == expected
    assert hub.asked == 1
    # Its settings are on the hub too.
    assert "for the settings of hf-hub:timm/test_resnet" in refusal("hf-hub:timm/test_resnet", "none")


def test_a_hub_that_answers_is_left_to_timm(hub: Hub) -> None:
    hub.answers = True
    check_hub("test_resnet", {}, pretrained=True, role="student")
    assert hub.asked == 1


def test_weights_in_the_cache_are_loaded_and_the_hub_is_not_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = put_into_cache("timm/test_resnet.r160_in1k")
    # Without it the client would look for news itself.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = build_model(ModelOptions("test_resnet"), weights="pretrained", num_classes=3, image_size=(32, 32))
    assert torch.equal(model.model.layer1[0].conv1.weight, cached.layer1[0].conv1.weight)
    assert hub.asked == 0


def test_a_model_of_a_repository_needs_its_settings_and_its_weights(hub: Hub) -> None:
    put_into_cache("me/mine", "config.json")
    check_hub("hf-hub:me/mine", {}, pretrained=False, role="student")
    with pytest.raises(UserError, match="cannot reach"):
        check_hub("hf-hub:me/mine", {}, pretrained=True, role="student")
    with pytest.raises(UserError, match="cannot reach"):
        check_hub("hf-hub:me/mine@v2", {}, pretrained=False, role="student")


def test_a_wish_to_stay_offline_is_respected(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set and the pretrained weights of test_resnet are not in the cache" in refusal(
        "test_resnet"
    )
    assert hub.asked == 0


@pytest.mark.parametrize(
    ("name", "kwargs", "pretrained"),
    [
        ("test_resnet", {}, False),
        ("test_resnet", {"pretrained_cfg_overlay": {"file": "mine.pth"}}, True),
        ("local-dir:somewhere", {}, True),
    ],
)
def test_what_does_not_come_from_the_hub_asks_nobody(
    name: str, kwargs: dict[str, Any], pretrained: bool, hub: Hub
) -> None:
    check_hub(name, kwargs, pretrained=pretrained, role="student")
    assert hub.asked == 0
