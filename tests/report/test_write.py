"""Pages of real, tiny runs: what is on them is what came out, nothing on them is loaded or run, mistakes are told."""

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from cli.conftest import refusal
from crossdistill.cli import main
from crossdistill.errors import UserCaution
from crossdistill.report import LivePage, write_report
from crossdistill.report import live as live_module
from crossdistill.report.answers import answer_of_study
from crossdistill.study import collect
from crossdistill.study.tables import cells, details
from crossdistill.training.run_folder import RunFolder
from report.conftest import CLASSES, QUESTION
from report.pages import ReadPage
from study.conftest import quiet


@pytest.fixture(scope="module")
def study_page(study: Path, tmp_path_factory: pytest.TempPathFactory) -> ReadPage:
    return ReadPage(write_report(study, tmp_path_factory.mktemp("pages") / "study.html"))


@pytest.fixture(scope="module")
def run_page(study: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> ReadPage:
    output = tmp_path_factory.mktemp("pages") / "run.html"
    return ReadPage(write_report(run, output, baseline=study / "pair" / "scratch" / "0"))


@pytest.fixture(params=["study", "run"])
def page(request: pytest.FixtureRequest) -> ReadPage:
    return request.getfixturevalue(f"{request.param}_page")


def test_a_page_loads_and_runs_nothing(page: ReadPage) -> None:
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/")), (tag, attributes)
    assert "http://" not in page.source and "https://" not in page.source and "url(" not in page.source
    (policy,) = (one for one in page.tagged("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert (policy["content"] or "").startswith("default-src 'none'")
    assert len(page.source) < 300_000


def test_names_from_data_are_text(page: ReadPage) -> None:
    for name in CLASSES:
        assert name in page.texts
    # They are shown; as markup they would make elements with these attributes.
    assert all(attributes.get("src") != "x" for attributes in page.tagged("img"))
    assert any("'><b>" in (item.get("title") or "") for item in page.tagged("li"))


def test_images_are_mended_or_broken_as_the_answers_say(study: Path, study_page: ReadPage) -> None:
    (pair,) = collect(study).pairs
    best = max(pair.rows, key=lambda row: row.mean or 0.0)
    assert best.name == "kd"
    right = {}
    for row in pair.rows:
        for run in row.runs:
            said = RunFolder(study / run.folder).read_predictions()
            right[row.name, run.seed] = said.student.argmax(dim=1) == said.labels
    counts = []
    for before, after in (("scratch", "kd"), ("kd", "scratch")):
        counts.append(sum((~right[before, seed] & right[after, seed]).sum().item() for seed in (0, 1)) / 2)
    assert f"Of 12 images kd mends {counts[0]:.0f} and breaks {counts[1]:.0f} beside scratch" in study_page.text


def test_a_study_page_says_what_the_results_say(study: Path, study_page: ReadPage) -> None:
    results = collect(study)
    (pair,) = results.pairs
    assert QUESTION in study_page.texts and "4 of 4 runs are finished" in study_page.text
    for sentence in answer_of_study(results, pair):
        assert sentence in study_page.text
    for row in (*cells(results, pair), *details(pair)):
        for cell in row:
            assert " ".join(cell.split()) in study_page.text
    for row in pair.rows:
        for run in row.runs:
            assert f"{row.name}, seed {run.seed}: {run.value:.2f}" in study_page.texts
    teacher = study_page.text
    assert "Accuracy during training" in teacher and "Label term, as weighted" in teacher
    assert all(run.summary["data_fingerprint"] in teacher for run in pair.rows[0].runs)
    assert yaml.safe_load(next(text for text in study_page.texts if text.startswith("question:")))["seeds"] == [0, 1]


def test_a_run_page_says_what_the_summary_says(run: Path, run_page: ReadPage) -> None:
    summary = json.loads((run / "summary.json").read_text())
    text = run_page.text
    assert f"test_resnet reaches {summary['top1']:.2f} % top-1 on 12 validation images" in text
    assert f"{summary['teacher_top1']:.2f} %" in text and f"{summary['student_params']:,}" in text
    assert f"alike on {summary['teacher_agreement']:.2f} % of the images" in text
    baseline = json.loads((run.parents[1] / "scratch" / "0" / "summary.json").read_text())
    gain = summary["top1"] - baseline["top1"]
    assert f"That is {abs(gain):.2f} points {'above' if gain >= 0 else 'below'} scratch (seed 0)" in text
    # The terms of KD, and their sum.
    assert {"loss", "labels", "logits"} <= set(run_page.texts)
    # Framed on both sides, and joined: what KD reads.
    assert sum(one.get("class") == "box read" for one in run_page.tagged("rect")) == 2
    assert sum(one.get("class") == "match" for one in run_page.tagged("line")) == 1
    for role in ("teacher", "student"):
        for stage in summary["stages"][role]:
            assert stage["path"] in run_page.texts


def test_images_are_small_copies_of_those_that_changed(run: Path, tmp_path: Path) -> None:
    page = ReadPage(write_report(run, tmp_path / "page.html"))
    images = page.tagged("img")
    assert images
    for image in images:
        kind, content = (image["src"] or "").split(";base64,")
        opened = Image.open(io.BytesIO(base64.b64decode(content)))
        assert kind == f"data:image/{(opened.format or '').lower()}" and max(opened.size) <= 96
        assert image["alt"] in CLASSES
    assert not ReadPage(write_report(run, tmp_path / "page.html", images=False)).tagged("img")


def test_a_page_of_a_model_without_a_teacher(fields: dict[str, Any], tmp_path: Path) -> None:
    folder = Path(fields["recipe"]["teacher_weights"]).parent
    page = ReadPage(write_report(folder, tmp_path / "page.html"))
    assert "taught by" not in page.text and "teacher" not in page.texts
    assert any(text.startswith("Mistakes of which it is surest") for text in page.texts)


def test_images_are_left_out_where_the_data_is_gone_or_another(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    for data, said in ((str(tmp_path / "gone"), "is neither a folder nor one of"), ("fashion-mini", "other images")):
        (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"data": data}))
        page = ReadPage(write_report(copy))
        assert re.search(f"The images are left out: .*{said}", page.text) and not page.tagged("img")


def test_a_run_that_is_not_finished_has_a_page(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "summary.json").unlink()
    with (copy / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"kind": "train", "st')
    page = ReadPage(write_report(copy))
    assert "The run has not come to its end." in page.texts and "Loss terms, as weighted" in page.texts


def test_a_study_of_other_budgets_and_one_seed(fields: dict[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "study"
    recipe = fields["recipe"] | {"max_steps": 1, "evaluate_every": 9}
    quiet(fields | {"seeds": 1, "budget": [2, 3], "recipe": recipe}, output)
    shutil.rmtree(output / "pair" / "kd-x3")
    page = ReadPage(write_report(output))
    assert "Accuracy against budget" in page.texts and "3 of 4 runs are finished" in page.text
    assert "Not finished: pair/kd-x3/0." in page.texts
    # At the least budget; of one seed nothing is said of noise.
    assert re.search(r"(kd|scratch)-x2 reaches the highest top-1: \d+.\d\d %, by one seed", page.text)
    assert any(text.startswith("Accuracy was measured at the end only") for text in page.texts)
    shutil.rmtree(output / "pair")
    assert "No run is finished yet." in ReadPage(write_report(output)).texts


def test_a_study_page_follows_the_study(fields: dict[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "study"
    states: list[tuple[str, bool]] = []
    with LivePage(output) as page:

        def after_run() -> None:
            page.update()
            read = ReadPage(output / "report.html")
            state = re.search(r"\d of \d runs", read.text)
            assert state is not None and not read.tagged("img")
            states.append((state[0], any(one.get("http-equiv") == "refresh" for one in read.tagged("meta"))))
            page._ended = -float("inf")
            if len(states) == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            quiet(fields | {"recipe": fields["recipe"] | {"max_steps": 1}}, output, after_run=after_run)
        page.__exit__(KeyboardInterrupt)
    assert states == [("1 of 4 runs", True), ("2 of 4 runs", True)]
    assert not any(one.get("http-equiv") == "refresh" for one in ReadPage(output / "report.html").tagged("meta"))


def test_a_page_takes_a_tenth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now, written = [0.0], []

    def write(folder: Path, **arguments: Any) -> None:
        now[0] += 2
        written.append(now[0])

    monkeypatch.setattr(live_module, "write_report", write)
    monkeypatch.setattr(live_module.time, "monotonic", lambda: now[0])
    page = LivePage(tmp_path)
    for _ in range(9):
        page.update()
        now[0] += 6
    # Behind 2 s of writing come at least 20 s without.
    assert written == [2.0, 28.0, 54.0]


def test_a_page_that_fails_does_not_end_the_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(live_module, "write_report", lambda *_, **__: 1 / 0)
    with pytest.warns(UserCaution, match="was not written: division by zero"), LivePage(tmp_path) as page:
        page.update()


def test_the_command_writes_the_page_and_compare_does(
    study: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "page.html"
    assert main(["report", str(run), "--output", str(output), "--images", "false"]) == 0
    assert capsys.readouterr().out.strip() == str(output) and output.exists()
    copy = Path(shutil.copytree(study, tmp_path / "study"))
    shutil.rmtree(copy / "pair")
    shutil.copytree(study / "pair", copy / "pair")
    assert main(["compare", str(copy / "study.yaml"), "--output", str(study)]) == 0
    assert f"as a page: {study / 'report.html'}" in capsys.readouterr().out
    assert "4 of 4 runs are finished" in ReadPage(study / "report.html").text


def test_mistakes_are_told_in_one_line(
    study: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: object) -> str:
        return refusal(capsys, "report", *map(str, arguments))

    assert told(tmp_path / "none") == f"there is no folder {tmp_path / 'none'}"
    assert "is neither a run nor a study" in told(tmp_path)
    assert f"there is no folder {tmp_path / 'none'}" in told(run, "--output", tmp_path / "none" / "page.html")
    assert "it is a folder" in told(run, "--output", tmp_path)
    assert "no finished run" in told(run, "--baseline", tmp_path)
    assert "--baseline belongs to a run" in told(study, "--baseline", run)
    for name, content in (
        ("predictions.safetensors", b"nothing"),
        ("summary.json", b"{}"),
        ("summary.json", b"{"),
        ("metrics.jsonl", b"[]\n"),
        ("recipe.yaml", b"\xff"),
    ):
        copy = Path(shutil.copytree(run, tmp_path / "run", dirs_exist_ok=True))
        (copy / name).write_bytes(content)
        assert str(copy / name) in told(copy)
        assert not (copy / "report.html").exists()
