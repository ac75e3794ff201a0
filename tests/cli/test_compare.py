"""`compare` and `studies`: what reaches the study, and mistakes told in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

import crossdistill.report
import crossdistill.study
from cli.conftest import refusal, training
from crossdistill.cli import main
from crossdistill.study import Comparison, Results, Study, read_study


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Study, str, dict[str, Any]]]:
    """The calls that reach `crossdistill.study.compare`."""
    calls: list[tuple[Study, str, dict[str, Any]]] = []

    def compare(study: Study, output: str, **arguments: Any) -> Comparison:
        calls.append((study, output, arguments))
        return Comparison(Results("", "top1", "top-1 %", []))

    monkeypatch.setattr(crossdistill.study, "compare", compare)
    monkeypatch.setattr(crossdistill.report, "write_report", lambda folder: Path(folder) / "report.html")
    return calls


def test_flags_alone_make_a_study(given: list) -> None:
    flags = ["--methods", "scratch", "kd", "fbt", "--seeds", "6", "--controls", "same-time", "--budget", "1", "3"]
    models = ["--teacher", "test_vit", "--teacher.kwargs.img_size=32", "--student", "test_resnet"]
    assert main(["compare", *flags, *models, "--data", "cifar10", "--epochs", "9", "--output", "runs/x"]) == 0
    ((study, output, arguments),) = given
    assert output == "runs/x" and arguments["jobs"] == 1
    assert (list(study.rows), study.seeds) == (["scratch", "kd", "fbt"], (0, 1, 2, 3, 4, 5))
    assert (study.controls, study.budget) == (("same-time",), (1.0, 3.0))
    options = study.options("pair", study.rows["fbt"], 4)
    assert (options.method.name, options.student.name, options.epochs, options.seed) == ("fbt", "test_resnet", 9, 4)
    assert options.teacher.kwargs == {"img_size": 32}


def test_flags_overrule_a_study_and_choose_of_it(given: list) -> None:
    assert main(["compare", "quickstart", "--seeds", "3", "5", "--epochs", "2", "--jobs", "2", "--rows", "kd"]) == 0
    ((study, _, arguments),) = given
    whole = read_study("quickstart")
    assert study.seeds == (3, 5) and study.question == whole.question
    assert {study.options(pair, row).epochs for pair in study.pairs for row in study.rows_of(pair)} == {2}
    assert (arguments["jobs"], arguments["rows"]) == (2, ["kd"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "name a study (see: crossdistill studies), or give --methods"),
        (["quikstart"], "'quikstart' is neither a file nor a shipped study; did you mean 'quickstart'?"),
        (["--methods", "skratch"], "unknown method 'skratch'; did you mean 'scratch'?"),
        (["--methods", "kd", "--seeds", "0"], "seeds: there are none"),
        (["--methods", "kd", "--seed", "3"], "compare takes no --seed: use --seeds"),
        (["--methods", "kd", "--method", "kd"], "compare takes no --method: use --methods"),
        (["quickstart", "--methods", "kd"], "use --rows to choose rows of a study"),
        (["quickstart", "--epoch", "3"], "unknown option '--epoch'; did you mean '--epochs'?"),
        (["--methods", "kd", "--student", "resnet81"], "unknown model 'resnet81'; did you mean"),
        (["--methods", "kd", "--student", "resnet18"], "--output is missing"),
    ],
)
def test_mistakes(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert line in refusal(capsys, "compare", *arguments)


def test_compare_prints_a_table_and_names_what_failed(
    squares: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "study"
    recipe = training(squares, output, "--teacher_weights", str(teacher / "student.safetensors"))
    # CSKD wants a CNN as its teacher.
    arguments = ["compare", "--methods", "scratch", "kd", "cskd", "--student", "test_resnet", *recipe]
    assert main([*arguments, "--epochs", "1"]) == 3
    printed = capsys.readouterr()
    assert "to scratch" in printed.out and "one seed" in printed.out
    assert "not run: 1 of the study's runs (pair/cskd/0)" in printed.out
    (line,) = printed.err.splitlines()
    assert line.startswith("crossdistill: pair/cskd/0 failed: ") and "CSKD" in line
    results = json.loads((output / "results.json").read_text())
    assert [row["name"] for row in results["pairs"][0]["rows"]] == ["scratch", "kd", "cskd"]
    assert refusal(capsys, *arguments, "--epochs", "2").startswith(f"{output} was begun with --epochs 1")


def test_studies_lists_and_times(
    squares: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["studies"]) == 0
    listed = capsys.readouterr().out
    assert "quickstart" in listed and "cifar10" in listed
    study = tmp_path / "mine.yaml"
    study.write_text(
        f"question: Which?\nseeds: 2\nrows: [scratch, kd, cskd]\ncontrols: [same-time]\nrecipe:\n  data: {squares}\n"
        f"  teacher_weights: {teacher / 'student.safetensors'}\n  student: test_resnet\n  epochs: 3\n  batch_size: 8\n"
    )
    assert main(["studies", str(study)]) == 0
    rows = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if " pair " in f" {line}"}
    # 32 images in batches of 8, three times.
    assert rows["kd"].split()[3] == "12"
    assert "not measured" in rows["scratch-same-time"]
    assert "CSKD" in rows["cskd"]
