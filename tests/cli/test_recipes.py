"""`recipes`: the list, one experiment, and the recipe of a run, which `distill` takes."""

from pathlib import Path

import pytest
import yaml

from cli.conftest import refusal
from crossdistill.cli import main
from crossdistill.study.files import read_study, shipped_recipes


def test_all_are_listed_with_what_is_published(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = {line.split()[0]: line for line in lines if line.split()}
    assert set(shipped_recipes()) <= set(named)
    assert "72.20 to 83.80" in named["imagenet-cskd"]
    assert not [name for name in named if name.startswith("_")]


def test_one_is_shown_with_its_numbers_and_doubts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "imagenet-cskd", "--pairs", "deit_s"]) == 0
    out = capsys.readouterr().out
    (line,) = (line for line in out.splitlines() if line.strip().startswith("deit_"))
    assert line.split() == ["deit_s", "-", "79.90", "81.20", "82.30", "81.50"]
    published = read_study("imagenet-cskd").published
    assert published is not None
    assert all(f"- {doubt}" in out for doubt in published.doubts) and published.source in out


def test_the_recipe_of_a_run_is_printed_for_distill(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["recipes", "imagenet-homogeneous", "resnet34-resnet18", "dkd"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# imagenet-homogeneous: resnet34-resnet18, dkd, published top-1 71.70 %\n")
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    assert main(["distill", "--config", str(file), "--epochs", "3", "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["method"]["kwargs"] == {"alpha": 1, "beta": 0.5, "temperature": 1, "warmup": 0.01}
    assert (config["epochs"], config["learning_rate"], config["schedule"]) == (3, 0.2, "step")


def test_a_study_with_published_numbers_is_timed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    study = {
        "recipe": {"student": "test_resnet", "teacher": "test_vit", "image_size": 160, "data": "nowhere", "epochs": 2},
        "seeds": 1,
        "rows": ["scratch", "kd"],
        "published": {"images": 1280, "classes": 10},
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    timing = ["--estimate", "--estimate_batch", "2", "--accelerator", "cpu", "--rows", "kd"]
    assert main(["recipes", str(file), *timing]) == 0
    out = capsys.readouterr().out
    line = [line for line in out.splitlines() if line.strip().startswith("pair ")][-1]
    assert line.split()[:4] == ["pair", "kd", "kd", "20"]
    assert "timed on cpu with 2 images a step" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["imagenet-cksd"], "'imagenet-cksd' is neither a file nor a shipped study; did you mean 'imagenet-cskd'?"),
        (["imagenet-cskd", "deit_x", "cskd"], "imagenet-cskd has no pair 'deit_x'; did you mean"),
        (["imagenet-cskd", "deit_b"], "name a row too; there are scratch, deit, cskd"),
        (["imagenet-cskd", "deit_b", "cskd-1000"], "imagenet-cskd has no row 'cskd-1000' for deit_b"),
        (["imagenet-cskd", "--rows", "kd"], "--rows: there is no 'kd'"),
        (["quickstart", "--estimate"], "this study does not say how large its data set is: name one with --data"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert line in refusal(capsys, "recipes", *arguments)
