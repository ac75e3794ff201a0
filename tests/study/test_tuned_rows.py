"""Studies whose rows are tuned before their seeds run."""

from pathlib import Path
from typing import Any

import pytest

from crossdistill.errors import UserError
from crossdistill.study import Study, load_results
from crossdistill.study.record import read_record
from crossdistill.training.run_folder import load_recipe
from study.conftest import quiet

pytest.importorskip("optuna")


def test_every_row_is_tuned_once_and_its_seeds_have_what_was_chosen(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small | {"seeds": 1, "tune_trials": 2, "tune_search": ["learning_rate"], "controls": ["label-smoothing"]}
    assert not quiet(study, tmp_path / "study").failed
    chosen = read_record(tmp_path / "study").tuned
    assert chosen.keys() == {"pair/scratch", "pair/kd"}
    for row, base in (("scratch", "scratch"), ("kd", "kd"), ("scratch-label-smoothing", "scratch")):
        recipe = load_recipe(tmp_path / "study" / "pair" / row / "0" / "recipe.yaml")
        assert recipe.learning_rate == chosen[f"pair/{base}"]["values"]["learning_rate"]
        # Judged on all validation images, trained on all training images.
        assert recipe.held_out == 0
    for fact in chosen.values():
        assert fact["trials"] == 2 and fact["best"] >= fact["recipe"]
    rows = {row.name: row for row in load_results(tmp_path / "study").pairs[0].rows}
    assert rows["kd"].note.startswith("chosen in 2 trials on held-out images: learning_rate ")
    assert not rows["scratch-label-smoothing"].note

    def never(*arguments: Any, **named: Any) -> None:
        raise AssertionError("tuned again")

    monkeypatch.setattr("crossdistill.study.tuned_rows.tune", never)
    assert not quiet(study | {"seeds": 2}, tmp_path / "study").failed
    again = load_recipe(tmp_path / "study" / "pair" / "kd" / "1" / "recipe.yaml")
    assert again.learning_rate == chosen["pair/kd"]["values"]["learning_rate"]
    with pytest.raises(UserError, match="was begun with tune_trials 2, not 3"):
        quiet(study | {"tune_trials": 3}, tmp_path / "study")


def test_mistakes_are_told(small: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="tune_trials: give a number of trials, got 'many'"):
        Study.from_dict(small | {"tune_trials": "many"})
    with pytest.raises(UserError, match="tune_search: expected a list"):
        Study.from_dict(small | {"tune_search": "learning_rate"})
