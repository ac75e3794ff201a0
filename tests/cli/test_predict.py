"""`predict`: where its files come from, and how its answers are printed."""

import csv
import io
from pathlib import Path

import pytest
from PIL import Image

from cli.conftest import COLORS, refusal
from crossdistill.cli import main


def test_files_listed_on_the_standard_input(
    teacher: Path, squares: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    red, blue, grey = (str(squares / "val" / name / "0.png") for name in ("red", "blue", "grey"))
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{blue}\r\n\n{grey}\n"))
    assert main(["predict", str(teacher), red, "-", "--accelerator", "cpu", "--csv", "--top", "2"]) == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["file"], row["rank"]) for row in rows] == [(f, r) for f in (red, blue, grey) for r in ("1", "2")]
    assert [row["class"] for row in rows[::2]] == ["red", "blue", "grey"]
    assert all(0 <= float(row["probability"]) <= 1 for row in rows)
    assert err.splitlines()[-1].startswith("3 images in ") and err.rstrip().endswith("images/s")
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert "the standard input lists no file" in refusal(capsys, "predict", str(teacher), "-")
    assert "give - once" in refusal(capsys, "predict", str(teacher), "-", "-")
    assert "exclude each other" in refusal(capsys, "predict", str(teacher), red, "--json", "--csv")


def test_a_table(teacher: Path, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # What looks like a style of the table is part of a name.
    odd = tmp_path / "[bold]x.png"
    Image.new("RGB", (32, 32), COLORS["red"]).save(odd)
    blue = str(squares / "val" / "blue" / "0.png")
    assert main(["predict", str(teacher), str(odd), blue, "--top", "1", "--accelerator", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    [first] = [line for line in lines if str(odd) in line]
    [second] = [line for line in lines if blue in line]
    assert "red " in first and "blue " in second and first.rstrip("│ ").endswith("%")
    assert lines.index(first) < lines.index(second)


def test_upright_animated_and_sixteen_bits(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Read as docs/data.md says: an animation by its first frame, 16 bits by the upper 8."""
    frames = [Image.new("RGB", (32, 32), COLORS[name]) for name in ("red", "blue")]
    frames[0].save(tmp_path / "animated.webp", save_all=True, append_images=frames[1:], lossless=True)
    Image.new("I;16", (32, 32), 120 * 257).save(tmp_path / "grey.png")
    assert main(["predict", str(teacher), str(tmp_path), "--top", "1", "--csv", "--accelerator", "cpu"]) == 0
    rows = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert {Path(row["file"]).name: row["class"] for row in rows} == {"animated.webp": "red", "grey.png": "grey"}
