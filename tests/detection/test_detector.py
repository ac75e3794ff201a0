"""A detector through the seam of all models."""

import copy

import pytest
import torch
from torchvision.models import get_model

from crossdistill.detection import StagedDetector, load_detector
from crossdistill.detection.heads import HEADS
from crossdistill.detection.pyramid import Pyramid
from crossdistill.errors import UserError
from crossdistill.models import load_student, save_model
from crossdistill.models.build import build_model
from crossdistill.options import ModelOptions
from detection.tiny import CLASSES, tiny_detector

TARGETS = [
    {"boxes": torch.tensor([[4.0, 4, 40, 40], [30, 20, 60, 60]]), "labels": torch.tensor([0, 1])},
    # An image without objects.
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("head", HEADS)
def test_every_head_stands_on_every_backbone(kind: str, head: str) -> None:
    detector = tiny_detector(kind, head).train()
    images = torch.rand(2, 3, 64, 64)
    outputs = detector(images)
    assert [(s.channels, s.size) for s in detector.stages] == [
        (f.shape[1], tuple(f.shape[2:])) for f in outputs.features
    ]
    assert {stage.channels for stage in detector.stages} == {16} and len(detector.stages) == 5
    terms = detector.label_terms(outputs, TARGETS)
    sum(terms.values()).backward()  # type: ignore[union-attr]
    # What the pyramid does not read is frozen; all else takes part in every step.
    assert [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None] == []
    assert any(
        "backbone.backbone" in n and p.grad.abs().sum() > 0
        for n, p in detector.named_parameters()
        if p.grad is not None
    )
    found = detector.eval().detect(detector(images))
    assert len(found) == 2 and all((one["labels"] < len(CLASSES)).all() for one in found)
    assert all(one["boxes"].min() >= 0 and one["boxes"].max() <= 64 for one in found if len(one["boxes"]))


def test_a_simple_pyramid_has_the_four_scales_of_the_last_map() -> None:
    backbone = build_model(
        ModelOptions("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}),
        num_classes=0,
        image_size=(64, 96),
    )
    pyramid = Pyramid(backbone, 8)
    assert pyramid.names == ["p2", "p3", "p4", "p5"] and pyramid.strides == [2, 4, 8, 16]
    assert pyramid.sizes == [(32, 48), (16, 24), (8, 12), (4, 6)]
    assert "attention" in pyramid.mixing
    # The last norm lies behind the last stage.
    assert not any(p.requires_grad for n, p in backbone.named_parameters() if n.startswith("model.norm."))


def test_it_computes_what_torchvision_does() -> None:
    """The same answers and losses as torchvision's own forward, with torchvision's own normalisation."""
    torch.manual_seed(0)
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    own = get_model(
        name, weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64, box_score_thresh=0.0
    ).eval()
    staged = StagedDetector(
        copy.deepcopy(own),
        name=name,
        image_size=(64, 64),
        classes=CLASSES,
        mean=own.transform.image_mean,
        std=own.transform.image_std,
        first_label=1,
    ).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected, found = own(list(images)), staged.detect(staged(images))
    assert len(found[0]["boxes"])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours["boxes"], theirs["boxes"])
        torch.testing.assert_close(ours["scores"], theirs["scores"])
        assert torch.equal(ours["labels"] + 1, theirs["labels"])
    shifted = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in TARGETS]
    own.train(), staged.train()
    torch.manual_seed(1)
    expected_terms = own(list(images), shifted)
    torch.manual_seed(1)
    terms = staged.label_terms(staged(images), TARGETS)
    assert terms.keys() == expected_terms.keys()
    for key, value in terms.items():
        torch.testing.assert_close(value, expected_terms[key])


def test_a_file_says_all_of_the_detector(tmp_path) -> None:  # type: ignore[no-untyped-def]
    detector = tiny_detector("vit").eval()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    save_model(detector, tmp_path / "a.safetensors", classes=CLASSES)
    again = load_detector(tmp_path / "a.safetensors")
    images = torch.rand(1, 3, 64, 64)
    assert again.classes == CLASSES and again.image_size == (64, 64)
    for ours, theirs in zip(again(images).features, detector(images).features, strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(UserError, match="holds a detector: add --task detection"):
        load_student(tmp_path / "a.safetensors")


def test_a_backbone_begins_with_the_weights_of_a_classifier(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from crossdistill.detection import build_detector

    classifier = build_model(ModelOptions("test_resnet"), num_classes=5, image_size=(64, 64))
    save_model(classifier, tmp_path / "c.safetensors")
    detector = build_detector(
        ModelOptions(),
        weights=str(tmp_path / "c.safetensors"),
        classes=CLASSES,
        head="fcos",
        pyramid_channels=8,
    )
    ours = detector.model.backbone.backbone.model.state_dict()
    theirs = classifier.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert set(theirs) - set(ours) == {name for name in theirs if name.startswith("fc.")}
    with pytest.raises(UserError, match="holds no detector"):
        load_detector(tmp_path / "c.safetensors")
