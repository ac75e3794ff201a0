"""The parts of a page, by hand-made values."""

import dataclasses
from typing import Any

import pytest
import torch

from crossdistill.report.answered import Answers, Judged, mended
from crossdistill.report.answers import answer_of_study, leader, note_on_leaders
from crossdistill.report.chart import Axis, Chart, in_words
from crossdistill.report.curves import CurvePoint, curve, term_names
from crossdistill.report.judged import confusion, first_of_each_class, most_confused, reliability
from crossdistill.report.pair import draw_pair
from crossdistill.report.sections import confusions
from crossdistill.study.metrics import calibration_error
from crossdistill.study.results import Cost, Difference, PairResult, Results, RowResult, RunResult
from crossdistill.training.run_folder import Predictions


def test_bins_make_up_the_calibration_error() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, labels = 2 * torch.randn(500, 4, generator=generator), torch.randint(4, (500,), generator=generator)
    confidence, answer = logits.softmax(dim=1).max(dim=1)
    bins = reliability(confidence, answer == labels)
    assert sum(one.images for one in bins) == 500
    error = sum(one.images * abs(one.confidence - one.accuracy) for one in bins) / 500
    assert error == pytest.approx(calibration_error(logits, labels), abs=1e-3)


def test_confusions_by_hand() -> None:
    labels, answers = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 2, 2, 2, 2])
    counts = confusion(answers, labels, 3)
    assert counts.tolist() == [[1, 0, 1], [0, 0, 2], [0, 0, 1]]
    assert most_confused(counts, 5) == [(1, 2, 2), (0, 2, 1)]
    # Of more classes than a matrix can show, the most frequent mistakes.
    many = torch.zeros(30, 30, dtype=torch.long)
    many[3, 4], many[3, 3], many[7, 1] = 5, 15, 2
    (table,) = confusions(many, [f"c{k}" for k in range(30)], "Confusions")
    assert table.rows == [["c3", "c4", "5", "25.0"], ["c7", "c1", "2", "100.0"]]


def test_images_are_taken_from_each_class_in_turn() -> None:
    chosen = torch.tensor([True, True, True, True, False, True])
    order, labels = torch.tensor([0.1, 0.9, 0.8, 0.7, 1.0, 0.2]), torch.tensor([1, 0, 0, 0, 1, 1])
    assert first_of_each_class(chosen, order, labels, 4) == [1, 5, 2, 0]
    assert first_of_each_class(torch.zeros(6, dtype=torch.bool), order, labels, 4) == []


def test_mended_images_are_counted_over_seeds() -> None:
    labels = torch.tensor([0, 1, 1])

    def said(*by_seed: list[int]) -> Answers:
        return Answers({seed: torch.tensor(answers) for seed, answers in enumerate(by_seed)})

    before, after = said([1, 1, 0], [1, 0, 0]), said([0, 0, 0], [0, 1, 0])
    assert mended(before, after, labels, [0, 1]).tolist() == [2, 1, 0]
    assert mended(after, before, labels, [0, 1]).tolist() == [0, 1, 0]


def test_answers_of_seeds_add_up() -> None:
    labels, answers = torch.tensor([0, 1]), Answers()
    for seed, logits in enumerate(([[2.0, 0.0], [2.0, 0.0]], [[2.0, 0.0], [0.0, 2.0]])):
        answers.add(seed, Predictions(torch.tensor(logits), None, labels, ["a", "b"], ["x", "y"]))
    assert answers.confusion is not None and answers.confusion.tolist() == [[2, 0], [1, 1]]
    (one,) = answers.reliability(labels)
    assert (one.images, one.accuracy) == (4, 75.0)


def test_the_teacher_is_taken_from_the_run_that_had_one() -> None:
    alone = Predictions(torch.zeros(2, 2), None, torch.tensor([0, 1]), ["a", "b"], ["x", "y"])
    taught = dataclasses.replace(alone, teacher=torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    judged = Judged.of(taught, Judged.of(alone))
    assert judged.teacher_line(0) == ["teacher: y"] and judged.label(0) == "x"
    assert Judged.of(alone).teacher_line(0) == []


def test_curves_have_the_range_of_the_seeds() -> None:
    def line(epoch: int, value: float | None) -> dict[str, Any]:
        return {"kind": "evaluation", "step": 10 * epoch, "epoch": epoch, "top1": value}

    runs = [[line(1, 10.0), line(2, 30.0), line(3, None)], [line(1, 20.0), line(2, 30.0), line(3, 5.0)]]
    # The third epoch of the first diverged: no mean of both.
    assert curve(runs, "evaluation", "epoch", "top1") == [CurvePoint(1, 15, 10, 20), CurvePoint(2, 30, 30, 30)]
    assert curve(runs, "train", "epoch", "top1") == []
    long = [[line(epoch, 1.0) for epoch in range(1000)]]
    thinned = curve(long, "evaluation", "epoch", "top1")
    assert len(thinned) < 200 and (thinned[0].x, thinned[-1].x) == (0, 999)


def test_terms_are_what_the_loss_is_the_sum_of() -> None:
    line = {"kind": "train", "step": 1, "epoch": 1, "learning_rate": 0.1, "images_per_second": 5.0}
    assert term_names([line | {"loss": 3.0, "labels": 1.0, "logits": 2.0, "gradient_norm/labels": 9.0}]) == [
        "labels",
        "logits",
    ]


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0, 100, ["0", "20", "40", "60", "80", "100"]),
        (83.9, 85.3, ["84.0", "84.5", "85.0"]),
        (-0.013, 0.021, ["-0.01", "0.00", "0.01", "0.02"]),
        (0, 43_000, ["0", "10,000", "20,000", "30,000", "40,000"]),
    ],
)
def test_ticks_are_round(low: float, high: float, words: list[str]) -> None:
    assert in_words(Axis("", low, high).ticks()) == words


@pytest.mark.parametrize("values", [[3.0, 3.0], [0.0], [0.0, 0.0], [-2.0, 5.0]])
def test_an_axis_holds_its_values(values: list[float]) -> None:
    for include in (None, 0.0):
        axis = Axis.around("", values, include=include)
        chart = Chart("", axis, ["one"])
        assert axis.low <= min(values) and axis.high >= max(values) and axis.low < axis.high and axis.ticks()
        assert all(0 < chart.at_x(value) < 360 for value in values)


def test_charts_escape_their_text() -> None:
    chart = Chart("<b>", Axis("<i>", 0, 1), ["<script>alert(1)</script>"])
    chart.point(0.5, 0, 3, '"><img>')
    svg = str(chart.svg())
    assert "<b>" not in svg and "<i>" not in svg and "<script" not in svg and "<img" not in svg
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in svg


def stage(path: str) -> dict[str, Any]:
    return {"path": path, "channels": 8, "size": [4, 4], "prefix_tokens": 1, "mixing": ["attention"]}


def test_what_is_read_of_both_is_joined() -> None:
    summary = {
        "teacher": "vit",
        "student": "cnn",
        "stages": {"teacher": [stage("t1"), stage("t2")], "student": [stage("s1"), stage("s2"), stage("s3")]},
        "reads": {"teacher": ["attention", "features"], "student": ["features.3", "logits", "segments"]},
    }
    figure = draw_pair(summary)
    assert figure is not None
    # Of the same depth from the end: t2 and s3, both read. The teacher's head is not read.
    assert figure.svg.count('class="match"') == 1 and figure.svg.count('class="depth"') == 2
    assert figure.svg.count('class="box read"') == 4 and figure.svg.count('class="box"') == 3
    assert "Also used of the teacher: attention of its last block." in figure.caption
    assert "Also used of the student: its stages run one by one." in figure.caption
    assert draw_pair({"teacher": "vit", "student": "cnn"}) is None


def row(name: str, values: list[float], *differences: Difference, control: str = "", method: str = "") -> RowResult:
    found = RowResult(name, method or name, name, control, 1.0, 3)
    found.runs = [RunResult(seed, name, value, {}) for seed, value in enumerate(values)]
    found.mean, found.sd = sum(values) / len(values), 0.5 if len(values) > 1 else None
    found.differences = list(differences)
    found.cost = Cost(20.0 if name == "scratch" else 50.0, 0.1, 1.5, 0 if name == "scratch" else 1234, 2**20)
    return found


def difference(baseline: str, mean: float, verdict: str, settle: int | None = None) -> Difference:
    interval = None if verdict == "one seed" else (mean - 1, mean + 1)
    return Difference(baseline, [0, 1], [mean, mean], mean, 0.5, interval, (0, 0), 0.1, 0.1, verdict, settle, 1.0)


def sentences(*rows: RowResult) -> str:
    pair = PairResult("pair", "vit", 90.0, "cnn", 1000, "data", 10, 10, list(rows))
    return " ".join(answer_of_study(Results("", "top1", "top-1 %", [0, 1], [pair]), pair))


def test_the_answer_says_what_the_statistics_say() -> None:
    scratch, kd = row("scratch", [80, 80]), row("kd", [81, 81], difference("scratch", 1.0, "gain"))
    best = row("pat", [84, 84], difference("scratch", 4.0, "gain"), difference("kd", 0.5, "level", 40))
    said = sentences(scratch, kd, best)
    assert "pat reaches the highest top-1: 84.00 %, the mean over 2 seeds (standard deviation 0.50)." in said
    assert "The teacher has 90.00 % top-1." in said
    assert "That is 4.00 points above scratch (95 % interval +3.00 to +5.00)." in said
    assert "pat and kd are level: 0.50 points above kd (95 % interval -0.50 to +1.50, which covers 0)." in said
    assert "about 40 seeds would show it" in said
    assert "trains for 50.0 s, 2.5 times as long as scratch (a step: 1.50 times KD's), with 1,234 parameters" in said


def test_the_answer_does_not_say_more_than_that() -> None:
    scratch = row("scratch", [80])
    assert "does not tell a gain from noise" in sentences(
        scratch, row("kd", [81], difference("scratch", 1, "one seed"))
    )
    corrected = row("kd", [81, 81], difference("scratch", 1.5, "gain, not after Holm"))
    assert "Holm's correction for all rows takes that back." in sentences(scratch, corrected)
    assert "No row is above scratch." in sentences(scratch, row("kd", [79], difference("scratch", -1, "one seed")))
    control = row("scratch-same-time", [95, 95], control="same-time")
    control.note = "9 epochs"
    said = sentences(scratch, row("kd", [81, 81], difference("scratch", 1.5, "gain")), control)
    assert said.startswith("kd reaches") and "The control scratch-same-time reaches more, 95.00 %: 9 epochs." in said


def test_the_highest_of_several_means_is_called_so() -> None:
    rows = [row("scratch", [80]), row("kd", [81])]
    pair = PairResult("pair", None, None, "cnn", 1000, "data", 10, 10, rows)
    assert note_on_leaders(pair) == ""
    pair.rows.append(row("pat", [70]))
    assert note_on_leaders(pair).startswith("The highest of 3 means")
    pair.rows[2] = row("pat", [70, 70])
    assert note_on_leaders(pair).startswith("The rows do not have the same seeds yet")
    best = leader(pair)
    assert best is not None and best.name == "kd"
    pair.rows = [row("scratch-same-time", [95], control="same-time")]
    assert leader(pair) is None
