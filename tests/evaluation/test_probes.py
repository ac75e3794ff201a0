"""What a representation is worth: against scikit-learn, and against what is known by hand."""

import sys

import numpy as np
import pytest
import torch

from crossdistill.data import EvalLoader, ImageData, TensorSource
from crossdistill.errors import UserError
from crossdistill.evaluation import Probe, knn_answers, linear_answers, represent
from crossdistill.testing import TINY, staged


def blobs(count: int, seed: int, spread: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors of three classes that overlap."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centres = torch.eye(3).repeat(1, 2)
    return centres[labels] + spread * torch.randn(count, 6, generator=generator), labels


def test_neighbours_are_those_of_scikit_learn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    (train, labels), (queries, _) = blobs(90, 0), blobs(60, 1)
    theirs = neighbors.KNeighborsClassifier(
        20, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07)
    ).fit(train.numpy(), labels.numpy())
    assert torch.equal(knn_answers(train, labels, queries), torch.from_numpy(theirs.predict(queries.numpy())))


def test_a_vote_counts_by_its_cosine() -> None:
    train = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    labels = torch.tensor([0, 1, 1])
    # exp(1 / 0.07) against twice exp(0.6 / 0.07); of scale nothing is seen.
    assert knn_answers(train, labels, torch.tensor([[9.0, 0.0]])).tolist() == [0]
    # Fewer images than neighbours: all are asked.
    assert knn_answers(train, labels, torch.tensor([[0.6, 0.8]]), neighbours=2).tolist() == [1]


def test_a_linear_probe_separates_what_a_line_separates() -> None:
    pytest.importorskip("sklearn")
    (train, labels), (queries, expected) = blobs(90, 0, spread=0.05), blobs(30, 1, spread=0.05)
    # Of very different scales, which the standardisation takes away.
    scales = torch.tensor([1e-3, 1.0, 1e3, 1.0, 1.0, 1.0])
    assert torch.equal(linear_answers(train * scales, labels, queries * scales), expected)


def test_the_penalty_is_chosen_on_images_that_were_held_out() -> None:
    """In more dimensions than images, nearly all noise, a weak penalty alone would be no better than chance."""
    pytest.importorskip("sklearn")
    (train, labels), (queries, expected) = blobs(300, 0, spread=0.7), blobs(300, 1, spread=0.7)
    generator = torch.Generator().manual_seed(2)
    train, queries = (torch.cat([x, torch.randn(300, 300, generator=generator)], dim=1) for x in (train, queries))
    assert (linear_answers(train, labels, queries) == expected).float().mean() > 0.55


def test_a_class_of_one_image_has_nothing_to_hold_out() -> None:
    pytest.importorskip("sklearn")
    train, labels = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.1]]), torch.tensor([0, 1, 1])
    assert linear_answers(train, labels, train).tolist() == [0, 1, 1]


def test_without_scikit_learn_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(UserError, match=r"pip install 'crossdistill\[probe\]'"):
        linear_answers(*blobs(9, 0), torch.zeros(1, 6))


def data() -> ImageData:
    generator = torch.Generator().manual_seed(0)
    train, validation = (torch.randint(0, 256, (n, 3, 32, 32), generator=generator).byte() for n in (12, 7))
    return ImageData(
        "noise", ["a", "b"], TensorSource(train, torch.arange(12) % 2), TensorSource(validation, torch.arange(7) % 2)
    )


def test_vectors_are_what_the_classifier_reads_in_order() -> None:
    model = staged("cnn", TINY["cnn"]).train()
    source = data().train
    loader = EvalLoader(source, image_size=(32, 32), batch_size=5, device="cpu", workers=0)
    found = represent(model, loader)
    assert model.training
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(found, model(source.pixels / 255).pooled)


def test_a_probe_is_right_where_neighbours_are() -> None:
    images = data()
    model = staged("vit", TINY["vit"]).eval()
    probe = Probe(images, image_size=(32, 32), batch_size=5, device=torch.device("cpu"), workers=0)
    top1 = probe.top1(model)
    with torch.no_grad():
        train, queries = (model(source.pixels / 255).pooled for source in (images.train, images.validation))
    right = knn_answers(train, images.train.labels, queries) == images.validation.labels
    assert torch.equal(probe.right, right) and top1 == pytest.approx(100 * right.float().mean().item())
    # A validation set that is the training set, by one neighbour each: that is the image itself.
    assert knn_answers(train, images.train.labels, train, neighbours=1).tolist() == images.train.labels.tolist()
