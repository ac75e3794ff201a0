"""Studies run for real, on tiny models: what is run, what is taken, what is refused, what goes on."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import yaml
from safetensors.torch import load_file
from scipy import stats

from crossdistill.errors import UserError
from crossdistill.study import collect, load_results
from crossdistill.study.engines import Outcome, execute
from crossdistill.study.results import save_results
from crossdistill.study.runs import Run
from crossdistill.study.tables import markdown
from crossdistill.training.run_folder import RunFolder
from study.conftest import quiet

FILES = {"recipe.yaml", "metrics.jsonl", "summary.json", "student.safetensors", "predictions.safetensors", "log.txt"}


def recording(calls: list[str]) -> Any:
    """An engine that notes what it is asked for, and does it."""

    def engine(runs: list[Run], teller: Any) -> list[Outcome]:
        calls.extend(run.name for run in runs)
        return [execute(run) for run in runs]

    return engine


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "small"))


def test_runs_are_ordinary_run_folders(finished: Path) -> None:
    for row in ("scratch", "kd"):
        for seed in (0, 1):
            folder = finished / "pair" / row / str(seed)
            assert set(os.listdir(folder)) >= FILES
            recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
            assert (recipe["seed"], recipe["data_seed"], recipe["method"]["name"]) == (seed, seed, row)
            assert "validation" in (folder / "log.txt").read_text()
    assert {"study.yaml", "study.json", "results.json", "results.md"} <= set(os.listdir(finished))


def test_results_are_those_of_the_runs_by_formula(finished: Path) -> None:
    results = load_results(finished)
    (pair,) = results.pairs
    scratch, kd = pair.rows
    top1 = {
        row: [json.loads((finished / "pair" / row / str(s) / "summary.json").read_text())["top1"] for s in (0, 1)]
        for row in ("scratch", "kd")
    }
    assert [run.value for run in kd.runs] == pytest.approx(top1["kd"], abs=1e-4)
    gains = [one - other for one, other in zip(top1["kd"], top1["scratch"], strict=True)]
    difference = kd.difference("scratch")
    assert difference is not None and not scratch.differences
    assert difference.mean == pytest.approx(sum(gains) / 2, abs=1e-4)
    sd = abs(gains[0] - gains[1]) / 2**0.5
    assert difference.sd == pytest.approx(sd, abs=1e-4)
    if sd:
        # The 97.5 % quantile of Student's t with one degree of freedom.
        assert difference.interval is not None
        assert difference.interval[1] - difference.mean == pytest.approx(12.7062 * sd / 2**0.5, rel=1e-3)
        assert difference.p == pytest.approx(stats.ttest_1samp(gains, 0).pvalue, abs=1e-4)


def test_agreement_is_split_by_whether_the_teacher_is_right(finished: Path) -> None:
    kd = load_results(finished).pairs[0].rows[1]
    split: dict[bool, list[float]] = {True: [], False: []}
    for seed in (0, 1):
        tensors = load_file(finished / "pair" / "kd" / str(seed) / "predictions.safetensors")
        student, teacher, labels = tensors["student"].argmax(1), tensors["teacher"].argmax(1), tensors["labels"]
        for right in (True, False):
            chosen = [i for i in range(len(labels)) if bool(teacher[i] == labels[i]) is right]
            if chosen:
                split[right].append(100 * sum(bool(student[i] == teacher[i]) for i in chosen) / len(chosen))
    assert kd.agreement is not None
    for right, value in ((True, kd.agreement.teacher_right), (False, kd.agreement.teacher_wrong)):
        assert value == (pytest.approx(sum(split[right]) / len(split[right]), abs=1e-4) if split[right] else None)
    assert kd.agreement.all == pytest.approx(sum(run.summary["teacher_agreement"] for run in kd.runs) / 2, abs=1e-4)


def test_the_same_folder_gives_the_same_results_and_table(finished: Path, tmp_path: Path) -> None:
    first, again = load_results(finished), collect(finished)
    assert again == first
    assert markdown(again) == (finished / "results.md").read_text()
    save_results(again, tmp_path)
    assert (tmp_path / "results.json").read_text() == (finished / "results.json").read_text()


def test_finished_runs_are_not_repeated_and_a_study_may_grow(copy: Path, small: dict[str, Any]) -> None:
    calls: list[str] = []
    quiet(small, copy, engine=recording(calls))
    assert calls == []
    quiet(small | {"rows": ["scratch"]}, copy, engine=recording(calls))
    assert calls == []
    grown = small | {"rows": {"scratch": None, "ofa": None}, "seeds": 3}
    results = quiet(grown, copy, engine=recording(calls)).results
    assert calls == ["pair/ofa/0", "pair/ofa/1", "pair/scratch/2", "pair/ofa/2"]
    assert [row.name for row in results.pairs[0].rows] == ["scratch", "kd", "ofa"]
    # Not asked for by this call, but part of the folder's study: the table says so.
    assert results.missing == ["pair/kd/2"]


def test_a_changed_recipe_is_refused(copy: Path, small: dict[str, Any]) -> None:
    longer = small | {"recipe": small["recipe"] | {"epochs": 2}}
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(UserError, match=r"small was begun with --epochs 1 for pair/scratch, not 2: choose another"):
        quiet(longer, copy)
    warmer = small | {"rows": {"kd": {"method.kwargs.temperature": 4}}}
    with pytest.raises(UserError, match=r"--method.kwargs \{'temperature': 2\} for pair/kd, not \{'temperature': 4\}"):
        quiet(warmer, copy)
    with pytest.raises(UserError, match=r"holds another study \(Does it help\?\)"):
        quiet(small | {"rows": ["ofa"]}, copy)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_run_that_was_made_otherwise_is_not_taken(copy: Path, small: dict[str, Any]) -> None:
    recipe = copy / "pair" / "kd" / "1" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("batch_size: 12", "batch_size: 6"))
    with pytest.raises(UserError, match=r"kd/1 was run with --batch_size 6, and the study wants 12"):
        quiet(small, copy)


def test_another_teacher_or_other_data_under_a_finished_study_are_refused(
    copy: Path, small: dict[str, Any], tmp_path: Path
) -> None:
    recipe = small["recipe"]
    # The same weights elsewhere are the same teacher.
    moved = Path(shutil.copy(recipe["teacher_weights"], tmp_path / "moved.safetensors"))
    study = yaml.safe_load((copy / "study.yaml").read_text())
    study["recipe"]["teacher_weights"] = str(moved)
    (copy / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    elsewhere = small | {"recipe": recipe | {"teacher_weights": str(moved)}}
    calls: list[str] = []
    quiet(elsewhere, copy, engine=recording(calls))
    assert calls == []
    tensors = load_file(moved)
    with safetensors.safe_open(moved, "pt") as opened:
        metadata = opened.metadata()
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 1
    safetensors.torch.save_file(tensors, moved, metadata)
    with pytest.raises(UserError, match=r"was begun with another teacher \(other weights\) for pair/scratch"):
        quiet(elsewhere, copy)
    facts = json.loads((copy / "study.json").read_text())
    (copy / "study.json").write_text(json.dumps(facts | {"inputs": {}}))
    with pytest.raises(UserError, match=r"scratch/0 was run with another teacher \(other weights\)"):
        quiet(elsewhere, copy)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("summary.json", "summary.json is damaged"),
        ("recipe.yaml", "recipe.yaml is not a recipe"),
        ("predictions.safetensors", "predictions.safetensors is missing or damaged"),
    ],
)
def test_a_damaged_run_is_named_and_made_again_on_request(
    file: str, line: str, copy: Path, small: dict[str, Any]
) -> None:
    before = load_results(copy)
    folder = copy / "pair" / "kd" / "1"
    (folder / file).write_bytes((folder / file).read_bytes()[: 10 if file == "summary.json" else 4])
    with pytest.raises(UserError, match=rf"run in .*kd/1 is damaged: .*{line}.*; --rerun_damaged makes it again"):
        quiet(small, copy)
    calls: list[str] = []
    after = quiet(small, copy, rerun_damaged=True, engine=recording(calls)).results
    assert calls == ["pair/kd/1"]
    assert after.pairs[0].rows[1].runs[1].value == before.pairs[0].rows[1].runs[1].value


def test_a_run_that_fails_is_told_and_the_others_go_on(small: dict[str, Any], tmp_path: Path) -> None:
    # CAKD wants a Transformer as the teacher: with itself as one, the CNN cannot be.
    study = small | {"seeds": 1, "rows": {"cakd": {"teacher_weights": "row:scratch"}, "scratch": None}}
    comparison = quiet(study, tmp_path / "out")
    (failed,) = comparison.failed
    assert failed.run.name == "pair/cakd/0" and failed.error and "\n" not in failed.error
    assert comparison.results.missing == ["pair/cakd/0"]
    assert "refused" in (tmp_path / "out" / "pair" / "cakd" / "0" / "log.txt").read_text()
    # The folder of what was refused is no obstacle.
    assert [outcome.run.name for outcome in quiet(study, tmp_path / "out").failed] == ["pair/cakd/0"]


def test_controls_wait_for_what_they_need(small: dict[str, Any], tmp_path: Path) -> None:
    every = ["same-time", "label-smoothing", "random-teacher", "shuffled-teacher", "self-teacher"]
    calls: list[str] = []
    study = small | {"seeds": 1, "controls": every}
    comparison = quiet(study, tmp_path / "out", engine=recording(calls))
    assert not comparison.failed
    assert calls[-2:] == ["pair/kd-self-teacher/0", "pair/scratch-same-time/0"]
    rows = {row.name: row for row in comparison.results.pairs[0].rows}
    summary = {name: row.runs[0].summary for name, row in rows.items()}
    scratch = RunFolder(tmp_path / "out" / "pair" / "scratch" / "0").student
    recipe = yaml.safe_load((tmp_path / "out/pair/kd-self-teacher/0/recipe.yaml").read_text())
    assert recipe["teacher_weights"] == str(scratch)
    assert summary["kd-self-teacher"]["teacher"] == "test_resnet"
    assert summary["kd-random-teacher"]["teacher"] == "test_vit"
    assert summary["kd-random-teacher"]["teacher_fingerprint"] != summary["kd"]["teacher_fingerprint"]
    assert summary["kd-shuffled-teacher"]["teacher_fingerprint"] == summary["kd"]["teacher_fingerprint"]
    length = json.loads((tmp_path / "out" / "study.json").read_text())["same_time"]["pair"]
    measured = {
        name: summary[name]["seconds"] / summary[name]["steps"] * summary[name]["steps"] for name in ("scratch", "kd")
    }
    assert length["factor"] == pytest.approx(max(measured.values()) / measured["scratch"])
    assert rows["scratch-same-time"].epochs == length["epochs"] == max(1, round(length["factor"]))
    assert length["as_long_as"] in rows["scratch-same-time"].note
    # The length stays what it was.
    assert not quiet(study, tmp_path / "out", engine=recording(again := [])).failed
    assert again == []


def test_a_budget_is_a_curve(small: dict[str, Any], tmp_path: Path) -> None:
    results = quiet(small | {"seeds": 1, "budget": [1, 2]}, tmp_path / "out").results
    (pair,) = results.pairs
    assert [(row.name, row.epochs) for row in pair.rows] == [
        ("scratch", 1),
        ("kd", 1),
        ("scratch-x2", 2),
        ("kd-x2", 2),
    ]
    assert pair.curves["kd"] == [(1.0, pair.rows[1].mean), (2.0, pair.rows[3].mean)]
    difference = pair.rows[3].difference("scratch")
    assert difference is not None and difference.verdict == "one seed"
    assert difference.mean == pytest.approx(pair.rows[3].mean - pair.rows[2].mean)


def predictions(output: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(output)): file.read_bytes() for file in sorted(output.rglob("predictions.safetensors"))
    }


def test_two_jobs_equal_one(finished: Path, small: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    comparison = quiet(small, tmp_path / "out", jobs=2)
    assert not comparison.failed
    assert predictions(tmp_path / "out") == predictions(finished)
    assert "validation" in (tmp_path / "out" / "pair" / "kd" / "0" / "log.txt").read_text()


def test_a_worker_that_dies_is_told_and_the_others_go_on(small: dict[str, Any], tmp_path: Path) -> None:
    study = small | {"seeds": 1, "rows": {"dies": {"method": "study.dying.Dying"}, "scratch": None}}
    comparison = quiet(study, tmp_path / "out", jobs=2)
    (failed,) = comparison.failed
    assert failed.run.name == "pair/dies/0" and "its process ended with exit code 7" in failed.error
    assert [row.mean is None for row in comparison.results.pairs[0].rows] == [True, False]


@pytest.fixture(scope="module")
def longer(small: dict[str, Any]) -> dict[str, Any]:
    """A study that lasts long enough to be caught in the middle."""
    return small | {"seeds": 1, "recipe": small["recipe"] | {"epochs": 20, "log_every": 5}}


@pytest.fixture(scope="module")
def never_killed(longer: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("never_killed") / "out"
    assert not quiet(longer, output).failed
    return output


@pytest.mark.parametrize(
    ("jobs", "number"),
    [
        (1, signal.SIGINT),
        pytest.param(2, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(2, signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_killed_study_goes_on(
    jobs: int, number: int, longer: dict[str, Any], never_killed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(longer))
    command = [sys.executable, "-m", "crossdistill", "compare", str(tmp_path / "study.yaml")]
    command += ["--output", str(output), "--jobs", str(jobs)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    # After the first epoch, so that there is a checkpoint.
    while not list(output.rglob("state.pt")) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, number)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130), out.decode()
    assert b"Traceback" not in out
    _wait_until_quiet(output)
    calls: list[str] = []
    assert not quiet(longer, output, engine=recording(calls)).failed
    assert calls
    assert predictions(output) == predictions(never_killed)


def _wait_until_quiet(output: Path) -> None:
    """Workers whose parent was killed end behind their next checkpoint."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
        time.sleep(1.5)
        try:
            if before == {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}:
                return
        except FileNotFoundError:
            continue
    raise AssertionError("workers go on without their parent")


def test_mistakes_are_told_before_anything_is_written(small: dict[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "out"
    for changes, line in (
        ({"metric": "tpo5"}, "unknown metric 'tpo5'; did you mean 'top5'"),
        ({"rows": {"kd": {"method.kwargs.temprature": 2}}}, "kd: method kd has no hyper-parameter 'temprature'; did"),
        ({"recipe": {**small["recipe"], "data": ""}}, "--data is missing"),
        ({"recipe": {**small["recipe"], "devices": 2}}, "a run of a study has one device; --jobs"),
        ({"recipe": {**small["recipe"], "teacher_weights": "nowhere"}}, "nor an existing file"),
    ):
        with pytest.raises(UserError, match=line):
            quiet(small | changes, output)
    with pytest.raises(UserError, match="--rows: there is no 'ofa'; there are kd, scratch"):
        quiet(small, output, rows=["ofa"])
    assert not output.exists()
    output.mkdir()
    (output / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="is not empty, and holds no study"):
        quiet(small, output)


def test_two_at_once_in_one_folder_are_refused(copy: Path, small: dict[str, Any]) -> None:
    def engine(runs: list[Run], teller: Any) -> list[Outcome]:
        with pytest.raises(UserError, match="another process compares in"):
            quiet(small, copy)
        return [execute(run) for run in runs]

    assert not quiet(small | {"rows": ["scratch", "ofa"], "seeds": 1}, copy, engine=engine).failed


def test_results_are_plain_data(finished: Path) -> None:
    results = load_results(finished)
    assert json.loads((finished / "results.json").read_text()) == json.loads(json.dumps(dataclasses.asdict(results)))
    with pytest.raises(UserError, match="holds no results of a study"):
        load_results(finished / "pair")
