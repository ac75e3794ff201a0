"""`crossdistill cache`, as it is typed."""

import json
from pathlib import Path

import pytest

from cli.conftest import STUDENT, refusal, training
from crossdistill.cli import main


def test_a_cache_of_several_methods_is_filled_and_used(
    squares: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = ["--teacher_weights", str(teacher), *STUDENT, "--teacher_cache", str(tmp_path / "cache")]
    run = training(squares, tmp_path / "run", "--epochs", "2")
    assert main(["cache", "--method", "kd", "fbt", *cache, *run]) == 0
    assert "to write (logits 1 kB, pooled" in capsys.readouterr().out
    index = json.loads((tmp_path / "cache" / "index.json").read_text())
    assert index["key"]["teacher"] == "test_vit"
    assert "pooled/epoch0001-part000-rank0.safetensors" in index["shards"]
    assert main(["cache", "--method", "kd", *cache, *run]) == 0
    assert "is complete" in capsys.readouterr().out
    assert main(["distill", "--method", "kd", *cache, *run]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["teacher_cache"] == "replay"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cache", "--method", "kd"], "--teacher_cache is missing: name the folder that is filled"),
        (["cache", "--method", "kd", "fbtt", "--teacher_cache", "x"], "unknown method 'fbtt'; did you mean 'fbt'?"),
        (["cache", "--teacher_cache", "x", "--teacher_cache_top_k", "0"], "a whole number of at least 1, got '0'"),
        (["train", "--teacher_cache", "x"], "train takes no --teacher_cache"),
    ],
)
def test_mistakes_are_told(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refusal(capsys, *arguments)
