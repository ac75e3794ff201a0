"""The verbs that only show what there is: `methods`, `models`; and what `quickstart` passes on."""

import inspect
import sys

import pytest

import crossdistill.study.quickstart
from crossdistill.cli import main
from crossdistill.methods import METHODS, hyperparameters, load_method


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is no terminal is not wrapped to one's width either.
    monkeypatch.setenv("COLUMNS", "40")


def test_methods_lists_all_with_references(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    for name in METHODS:
        assert name in rows
        assert name == "scratch" or "arXiv " in rows[name]
    assert "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (2015, arXiv 1503.02531)" in rows["kd"]


@pytest.mark.parametrize("name", [*METHODS, "kd+fitnet"])
def test_a_method_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    method = load_method(name)
    title = (sys.modules[method.__module__].__doc__ or "").splitlines()[0]
    assert lines[0] == title
    for known, parameter in hyperparameters(method).items():
        row = next(line for line in lines if line.split()[:1] == [known])
        kind, default = inspect.formatannotation(parameter.annotation), repr(parameter.default)
        meaning = row.removeprefix(f"  {known}").strip().removeprefix(kind).strip().removeprefix(default)
        assert row.split() == [known, *kind.split(), *default.split(), *meaning.split()]
        assert len(meaning.split()) >= 3


VIT = [
    "--teacher.kwargs.img_size=28",
    "--teacher.kwargs.embed_dim=32",
    "--teacher.kwargs.depth=4",
    "--teacher.kwargs.num_heads=2",
]


def listed(out: str) -> tuple[set[str], dict[str, str]]:
    """The methods of the list, and the reasons of those that are not in it."""
    lines = [line for line in out.splitlines() if line.strip()]
    reasons = dict(line.removeprefix("not ").split(": ", 1) for line in lines if line.startswith("not "))
    return {line.split()[0] for line in lines if line.split()[0] in METHODS}, reasons


def test_methods_that_fit_a_pair(capsys: pytest.CaptureFixture[str]) -> None:
    pair = ["--fits", "vit_small_patch14_dinov2", "test_resnet", *VIT]
    assert main(["methods", *pair]) == 0
    fitting, reasons = listed(capsys.readouterr().out)
    assert fitting | reasons.keys() == METHODS.keys() and not fitting & reasons.keys()
    assert {"scratch", "foundation", "fitnet", "rkd"} <= fitting
    assert "vit_small_patch14_dinov2 has no head" in reasons["kd"]
    assert "has no attention" in reasons["minilm"]
    assert main(["methods", *pair, "--no_labels"]) == 0
    without_labels, more = listed(capsys.readouterr().out)
    assert without_labels < fitting and more["scratch"] == "it learns from labels"
    assert "foundation" in without_labels


def test_methods_that_learn_without_labels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--no_labels"]) == 0
    found, _ = listed(capsys.readouterr().out)
    assert found == {name for name in METHODS if not load_method(name).needs.labels}


def test_the_list_is_of_models_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--fits", "resnet18", "resnet1"]) == 2
    assert "resnet1" in capsys.readouterr().err
    assert main(["methods", "kd", "--no_labels"]) == 2
    assert "leave the method's name out" in capsys.readouterr().err


def test_hyperparameters_of_kd(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "crossdistill.methods.kd.KD"]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.split()[:1] == ["temperature"])
    assert row.split()[1:3] == ["float", "4.0"]
    assert "softens both distributions" in row
    assert "--method.kwargs.NAME=VALUE" in out


def test_ranges_that_tune_searches_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "kd"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "tune searches" in rows["hyper-parameter"]
    assert " 1 to 8 (log) " in rows["temperature"]
    assert " to " not in rows["teacher_weight"]
    assert main(["methods", "scratch"]) == 0
    assert "tune searches" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [("kdd", "unknown method 'kdd'; did you mean 'kd'?"), ("os.path.join", "'os.path.join' is not a Distiller")],
)
def test_unknown_method(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", name]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_models_by_part_of_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--filter", "resnet10"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert all("resnet10" in name for name in rows)
    # 5.44 million parameters with 1000 classes, trained at 176 pixels.
    assert rows["resnet10t"].split()[1:5] == ["5.44", "M", "176", "px"]
    assert "weights " in rows["resnet10t"]


def test_models_by_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--filter", "vit_*_224", "--pretrained"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert "vit_small_patch16_224" in names
    assert len(names) == len(set(names))
    assert all(name.startswith("vit_") and name.endswith("_224") for name in names)


def test_no_model_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--filter", "resnet18z"]) == 2
    assert capsys.readouterr().err == "crossdistill: no model of timm matches 'resnet18z'; did you mean 'resnet18'?\n"


@pytest.fixture
def quickstart(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """The calls that reach `crossdistill.study.quickstart.run`."""
    calls: list[tuple] = []
    monkeypatch.setattr(crossdistill.study.quickstart, "run", lambda *given: calls.append(given) or [])
    return calls


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        ([], (["scratch", "kd", "pat"], "runs/quickstart", 0)),
        (["--methods", "kd, ofa", "--seed", "3", "--output", "out"], (["kd", "ofa"], "out", 3)),
        (["--methods", "all"], (list(METHODS), "runs/quickstart", 0)),
    ],
)
def test_quickstart(arguments: list[str], call: tuple, quickstart: list[tuple]) -> None:
    assert main(["quickstart", *arguments]) == 0
    assert quickstart == [call]


def test_quickstart_refuses_an_unknown_method(quickstart: list[tuple], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstart", "--methods", "kd,offa"]) == 2
    assert capsys.readouterr().err == (
        "crossdistill: --methods: unknown method 'offa'; did you mean 'ofa'? (see: crossdistill methods)\n"
    )
    assert quickstart == []
