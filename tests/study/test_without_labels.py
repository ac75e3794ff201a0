"""Studies on images without labels: judged by what is measured there, refused where nothing is."""

from pathlib import Path
from typing import Any

import pytest
import torch

from crossdistill.errors import UserError
from crossdistill.report import write_report
from crossdistill.study import load_results
from crossdistill.study.metrics import find_metric
from crossdistill.study.study import Study
from crossdistill.study.tables import markdown
from crossdistill.training.run_folder import Predictions
from study.conftest import RECIPE, quiet

TEACHER = {
    "teacher": "vit_small_patch14_dinov2",
    "teacher.kwargs": {"img_size": 28, "embed_dim": 32, "depth": 4, "num_heads": 2},
}


def study(data: Path, **fields: Any) -> Study:
    own = {name: value for name, value in RECIPE.items() if name not in ("teacher", "method")}
    recipe = own | TEACHER | {"data": str(data), "allow_weak_teacher": True, "epochs": 2, "evaluate_every": 1}
    values = {"rows": ["foundation", "rkd+foundation"], "seeds": 2, "metric": "teacher_cosine", "recipe": recipe}
    return Study.from_dict(values | fields)


def test_rows_are_compared_by_the_cosine_to_the_teacher(flat_folder: Path, tmp_path: Path) -> None:
    assert not quiet(study(flat_folder, baselines=["foundation"]), tmp_path / "study").failed
    (pair,) = load_results(tmp_path / "study").pairs
    for row in pair.rows:
        assert [run.value for run in row.runs] == [
            pytest.approx(run.summary["teacher_cosine"], rel=1e-5) for run in row.runs
        ]
        assert row.calibration_error is None and not row.class_changes
    difference = pair.rows[1].difference("foundation")
    assert difference is not None and difference.interval is not None
    assert "cosine to the teacher %" in markdown(load_results(tmp_path / "study"))
    page = write_report(tmp_path / "study").read_text()
    assert "Cosine to the teacher during training" in page and "Confusions" not in page
    page = write_report(tmp_path / "study" / "pair" / "foundation" / "0").read_text()
    assert "cosine to the teacher" in page and "The images have no labels" in page


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"metric": "top1"}, "has no labels, and the study judges by top1: give --metric teacher_cosine"),
        ({"metric": "knn_top1"}, "pair/foundation: --metric knn_top1 is measured on --probe_data"),
        ({"rows": ["foundation", "scratch"]}, "pair/scratch: Scratch learns from labels"),
    ],
)
def test_what_is_not_measured_is_refused(
    fields: dict[str, Any], reason: str, flat_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        quiet(study(flat_folder, **fields), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_value_that_a_run_does_not_have_is_named() -> None:
    predictions = Predictions(
        torch.zeros(2, 0), None, torch.tensor([-1, -1]), ["a", "b"], [], {"knn_top1": torch.ones(3)}
    )
    assert find_metric("knn_top1").value(find_metric("knn_top1").evidence(predictions)[:, None]).tolist() == [100.0]
    with pytest.raises(UserError, match="teacher_cosine: a run has none: foundation measures it"):
        find_metric("teacher_cosine").evidence(predictions)
    with pytest.raises(UserError, match="metric top1: the images have no labels"):
        find_metric("top1").evidence(predictions)
