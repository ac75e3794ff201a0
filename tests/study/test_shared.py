"""What the runs of a study share."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from crossdistill.errors import UserError
from crossdistill.study import Study
from crossdistill.study.record import read_record
from crossdistill.training.memory_format import MemoryFormats
from crossdistill.training.run_folder import load_recipe
from study.conftest import quiet


def test_rows_share_a_teacher_and_give_the_same_students(small: dict[str, Any], finished: Path, tmp_path: Path) -> None:
    rows = small["rows"] | {"rkd": None, "fitnet": None}
    assert not quiet(small | {"rows": rows, "share_teacher": True}, tmp_path / "shared").failed
    pair = tmp_path / "shared" / "pair"
    for seed in ("0", "1"):
        with_cache, without = (
            load_file(folder / "kd" / seed / "student.safetensors") for folder in (pair, finished / "pair")
        )
        assert all(torch.equal(tensor, without[name]) for name, tensor in with_cache.items())
        summaries = {row: json.loads((pair / row / seed / "summary.json").read_text()) for row in rows}
        cached = {row: summary["teacher_cache"] for row, summary in summaries.items()}
        # Maps are left to the teacher, and scratch has none.
        assert cached == {"scratch": None, "kd": "replay", "rkd": "replay", "fitnet": None}
    caches = [path.name[0] for path in (tmp_path / "shared" / "_teacher_cache" / "pair").iterdir()]
    assert sorted(caches) == ["0", "1"]


def test_a_memory_order_is_measured_once_for_a_student(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measured(*arguments: Any) -> MemoryFormats:
        asked.append(arguments)
        return MemoryFormats(contiguous=2.0, channels_last=1.0)

    monkeypatch.setattr("crossdistill.study.shared.measure_memory_formats", measured)
    study = small | {"recipe": small["recipe"] | {"channels_last": "auto"}, "seeds": 1}
    assert not quiet(study, tmp_path / "study").failed
    assert len(asked) == 1 and read_record(tmp_path / "study").memory_orders == {"pair/test_resnet": "true"}
    for row in ("scratch", "kd"):
        assert load_recipe(tmp_path / "study" / "pair" / row / "0" / "recipe.yaml").channels_last == "true"
    assert not quiet(study | {"seeds": 2}, tmp_path / "study").failed
    assert len(asked) == 1


def test_a_cache_of_ones_own_is_refused(small: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="a study sets teacher_cache for each run: give share_teacher instead"):
        Study.from_dict(small | {"recipe": small["recipe"] | {"teacher_cache": "somewhere"}})
