"""Two models on the same images: what is found, shown and drawn."""

import copy
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from crossdistill.analysis.cka import MinibatchCKA
from crossdistill.analysis.images import choose_images, common_size
from crossdistill.analysis.ranking import Candidate, Ranking, describe_candidate, logit_ratio, ranked
from crossdistill.analysis.representations import Representations, analyze, knows_classes, take_pictures
from crossdistill.data import Batch, TensorSource
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import CLASSES, SIDE, TINY, staged

NAMES = [f"class {index}" for index in range(CLASSES)]


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    images = torch.rand(20, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % CLASSES
    parts = zip(images.split(8), labels.split(8), torch.arange(20).split(8), strict=True)
    return [Batch(*part) for part in parts]


@pytest.fixture(scope="module")
def pair() -> list[StagedModel]:
    return [staged("a vit", TINY["vit"]), staged("a cnn", TINY["cnn"])]


@pytest.fixture(scope="module")
def found(pair: list[StagedModel], batches: list[Batch]) -> Representations:
    return analyze(pair, batches, "noise")


def _text(table: object) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_a_model_is_itself(pair: list[StagedModel], batches: list[Batch]) -> None:
    alone = analyze(pair[:1], batches)
    twice = analyze([pair[0], pair[0]], batches)
    torch.testing.assert_close(alone.cka, twice.cka)
    torch.testing.assert_close(alone.cka.diagonal(), torch.ones(4, dtype=torch.float64))
    assert pair[0].training


def test_means_over_the_images_do_not_depend_on_the_batches(pair: list[StagedModel], batches: list[Batch]) -> None:
    whole = Batch(*(torch.cat([getattr(b, n) for b in batches]) for n in ("images", "labels", "indices")))
    first, second = analyze(pair, batches), analyze(pair, [whole])
    assert first.images == second.images == 20
    for ours, theirs in zip(first.models, second.models, strict=True):
        for one, other in zip(ours.energy, theirs.energy, strict=True):
            torch.testing.assert_close(one, other)
            assert one.sum().item() == pytest.approx(1)
        assert ours.spreads == pytest.approx(theirs.spreads)
        for path, heads in ours.attention_distances.items():
            assert heads == pytest.approx(theirs.attention_distances[path])


def test_the_tables_and_the_json_tell_all_of_it(found: Representations, pair: list[StagedModel]) -> None:
    text, values = _text(found), json.loads(json.dumps(found.to_dict()))
    assert "20 images" in " ".join(text.split()) and values["images"] == 20 and values["data"] == "noise"
    for model, of_json in zip(pair, values["models"], strict=True):
        assert of_json["stages"] == [stage.path for stage in model.stages]
        assert all(path in text for path in of_json["stages"])
    row = next(line for line in text.splitlines() if "blocks.4 " in line)
    assert all(f"{value:.3f}" in row for value in values["cka"][2])
    assert len(values["models"][0]["attention_distance"]) == 6 and not values["models"][1]["attention_distance"]
    heads = values["models"][0]["attention_distance"]["blocks.0.attn"]
    row = next(line for line in text.splitlines() if "blocks.0.attn" in line)
    assert f"{100 * sum(heads) / 2:.1f}" in row and f"{100 * max(heads):.1f}" in row


def test_the_figures_are_images(
    found: Representations, pair: list[StagedModel], batches: list[Batch], tmp_path: Path
) -> None:
    figures = pytest.importorskip("crossdistill.analysis.figures")
    few = Batch(batches[0].images[:2], batches[0].labels[:2], batches[0].indices[:2])
    pictures = take_pictures(pair, few, NAMES)
    files = figures.write_figures(tmp_path / "out", found, pictures)
    names = {"cka.png", "attention_distance.png", "responses.png", "activation_maps.png"}
    assert {file.name for file in files} == names == {file.name for file in (tmp_path / "out").iterdir()}
    for file in files:
        with Image.open(file) as image:
            assert image.format == "PNG" and min(image.size) > 100
    # Without pictures, of a model without attention, CKA is left.
    alone = analyze(pair[1:], batches)
    assert [file.name for file in figures.write_figures(tmp_path / "few", alone, [])] == ["cka.png"]


def test_a_model_of_other_classes_is_asked_about_its_own_answer(pair: list[StagedModel], batches: list[Batch]) -> None:
    stranger = staged("a stranger", lambda img_size: TINY["cnn"](num_classes=5, img_size=img_size))
    assert knows_classes(pair[0], NAMES) and not knows_classes(stranger, NAMES)
    few = Batch(batches[0].images[:2], batches[0].labels[:2], batches[0].indices[:2])
    headless = staged("headless", lambda img_size: TINY["cnn"](num_classes=0, img_size=img_size))
    for i, picture in enumerate(take_pictures([pair[0], stranger, headless], few, NAMES)):
        answer = stranger.eval()(few.images).logits[i].argmax().item()
        assert picture.label == NAMES[i] and picture.asked == [NAMES[i], str(answer), None]
        assert picture.maps[0] is not None and picture.maps[2] is None
        assert [stage.shape for stage in picture.energy[0]] == [stage.size for stage in pair[0].stages]


def test_the_choice_of_images_is_fixed_and_in_order() -> None:
    source = TensorSource(torch.zeros(50, 3, 4, 4, dtype=torch.uint8), torch.arange(50), "validation")
    chosen = choose_images(source, 10).labels
    assert torch.equal(chosen, choose_images(source, 10).labels) and torch.equal(chosen, chosen.sort().values)
    assert len(chosen) == 10 and len(choose_images(source, 100)) == 50
    assert common_size([staged("a", TINY["cnn"], (32, 64)), staged("b", TINY["cnn"], (64, 32))]) == (64, 64)


def test_logit_ratio_by_hand() -> None:
    assert logit_ratio(torch.tensor([[4.0, 2.0], [3.0, 1.0]])) == 2.5
    # One second logit below zero, whose ratio would mean nothing, is left out; most of them leave nothing.
    assert logit_ratio(torch.tensor([[4.0, 2.0], [3.0, -1.0]])) == 2
    assert logit_ratio(torch.tensor([[4.0, 2.0], [3.0, -1.0], [3.0, 0.0]])) is None


def test_a_candidate_is_described_by_its_answers(pair: list[StagedModel], batches: list[Batch]) -> None:
    teacher, student = pair
    found = describe_candidate("one", teacher, student, batches, NAMES)
    with torch.no_grad():
        logits = torch.cat([teacher.eval()(batch.images).logits for batch in batches])
    labels = torch.arange(20) % CLASSES
    share = (logits.argmax(dim=1) == labels).double().mean().item()
    assert found.top1 == pytest.approx(100 * share)
    assert found.standard_error == pytest.approx(100 * (share * (1 - share) / 20) ** 0.5)
    probabilities = logits.softmax(dim=1).topk(2).values
    margin = (probabilities[:, 0] / probabilities[:, 1]).log().mean().item()
    assert found.logit_margin == pytest.approx(margin, rel=1e-4)
    stranger = staged("a stranger", lambda img_size: TINY["cnn"](num_classes=5, img_size=img_size))
    assert describe_candidate("other", stranger, student, batches, NAMES).top1 is None
    headless = staged("headless", lambda img_size: TINY["cnn"](num_classes=0, img_size=img_size))
    described = describe_candidate("none", headless, student, batches, NAMES)
    assert described.top1 is described.logit_ratio is described.logit_margin is None


def test_a_student_without_weights_is_seen_as_its_training_begins(batches: list[Batch]) -> None:
    """Its batch norms take their statistics from the batch, and keep their own."""
    teacher, student = staged("a vit", TINY["vit"]), staged("a cnn", TINY["cnn"]).eval()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}

    def cka(mode: bool) -> float:
        expected = MinibatchCKA()
        copied = copy.deepcopy(student).train(mode)
        with torch.no_grad():
            for batch in batches:
                features = [model(batch.images).features[-1] for model in (teacher.eval(), copied)]
                expected.add(features)
        return expected.result()[0, 1].item()

    new = describe_candidate("one", teacher, student, batches, NAMES).cka
    assert new == pytest.approx(cka(True)) and not student.training
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())
    student.card.weights = "some file"
    trained = describe_candidate("one", teacher, student, batches, NAMES).cka
    assert trained == pytest.approx(cka(False)) and trained != pytest.approx(new)


def test_best_first_and_what_lacks_the_measure_last() -> None:
    def candidate(name: str, top1: float | None, ratio: float | None, cka: float) -> Candidate:
        return Candidate(name, 1000, top1, 0.5, ratio, 1.0, cka)

    found = [
        candidate("a", 70.0, 1.5, 0.2),
        candidate("b", None, 1.2, float("nan")),
        candidate("c", 80.0, None, 0.9),
    ]
    assert [[c.name for c in ranked(found, order)] for order in ("top1", "logit_ratio", "cka")] == [
        ["c", "a", "b"],
        ["b", "a", "c"],
        ["c", "a", "b"],
    ]
    ranking = Ranking(ranked(found, "top1"), "top1", "a student", 100)
    lines = _text(ranking).splitlines()
    rows = [line.split("│") for line in lines if "1,000" in line]
    assert [row[1].strip() for row in rows] == ["c", "a", "b"] and rows[2][3].strip() == rows[2][6].strip() == "-"
    assert json.loads(json.dumps(ranking.to_dict()))["teachers"][2]["cka"] is None
