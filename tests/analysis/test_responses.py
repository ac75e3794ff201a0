"""Where stages respond, and which places speak for a class."""

import pytest
import timm
import torch

from crossdistill.analysis.responses import activation_map_refusal, class_activation_maps, position_energy, spread
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import SIDE, TINY, staged


def test_energy_is_the_share_of_squares() -> None:
    feature = torch.zeros(2, 3, 2, 2)
    feature[0, :, 0, 1] = torch.tensor([1.0, 2.0, -2.0])
    feature[0, 0, 1, 1] = 3.0
    energy = position_energy(feature)
    assert energy[0].tolist() == [[0, 0.5], [0, 0.5]]
    # Nothing responds to the second image.
    assert energy[1].tolist() == [[0, 0], [0, 0]]
    assert spread(energy)[0] == 0.5
    assert spread(torch.full((1, 2, 2), 0.25))[0] == 1


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_behind_a_mean_and_a_linear_layer_it_is_the_class_activation_map(name: str) -> None:
    """Zhou et al.: the class's weights at every position; here less its mean over positions."""
    model = staged(name, TINY[name])
    assert model.pools_mean
    images, classes = torch.rand(2, 3, SIDE, 2 * SIDE), torch.tensor([0, 2])
    maps, outputs = class_activation_maps(model, images, classes)
    # Images of another size are resized; the model is left in its mode.
    assert model.training and maps.shape == (2, *model.stages[-1].size)
    expected = torch.einsum("bd,bdhw->bhw", model.model.get_classifier().weight[classes], outputs.final)
    expected = (expected - expected.mean(dim=(1, 2), keepdim=True)) / maps[0].numel()
    torch.testing.assert_close(maps, expected)


@pytest.mark.parametrize("name", ["vit", "distilled"])
def test_of_a_class_token_it_tells_what_a_place_adds_to_the_mean_place(name: str) -> None:
    model = staged(name, TINY[name]).eval().double()
    assert not model.pools_mean
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            # New Transformers begin with weights so small that no token hears of another.
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    images, classes = torch.rand(1, 3, SIDE, SIDE, dtype=torch.float64), torch.tensor([1])
    maps, outputs = class_activation_maps(model, images, classes)
    assert all(parameter.grad is None for parameter in model.parameters())
    entered, prefix = model.enter(images)
    step = torch.zeros_like(entered)
    step[..., 2, 1] = 1e-5 * (entered - entered.mean(dim=(2, 3), keepdim=True))[..., 2, 1]
    with torch.no_grad():
        logits = [model.run_from(0, entered + sign * step, prefix).logits[0, 1] for sign in (1, -1)]
    slope = (logits[0] - logits[1]).item() / 2e-5
    assert abs(slope) > 1e-4 and maps[0, 2, 1].item() == pytest.approx(slope, rel=1e-4)
    torch.testing.assert_close(outputs.logits, model(images).logits)


def test_what_has_no_map_says_why() -> None:
    headless = StagedModel(timm.create_model("test_resnet", num_classes=0), image_size=SIDE)
    assert activation_map_refusal(headless) == "it has no head"
    cait = timm.create_model("cait_xxs24_224", img_size=SIDE, patch_size=8, embed_dim=32, depth=2, num_heads=2)
    assert activation_map_refusal(StagedModel(cait, image_size=SIDE))
    assert all(not activation_map_refusal(staged(name, builder)) for name, builder in TINY.items())
