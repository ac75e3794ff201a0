"""Studies as data: layers, short forms, expansion, and what is refused in one line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from crossdistill.errors import UserError
from crossdistill.options import MethodOptions, ModelOptions
from crossdistill.study.files import asset, read_study, shipped_studies
from crossdistill.study.layers import flatten, merge
from crossdistill.study.runs import plan
from crossdistill.study.study import Study

STUDY: dict[str, Any] = {
    "seeds": 2,
    "recipe": {"data": "fashion-mini", "epochs": 4, "method": {"name": "fbt", "kwargs": {"tail_stages": 2}}},
    "pairs": {
        "one": {"teacher_weights": "asset:fashion_vit.safetensors", "student": "test_resnet"},
        "two": {
            "teacher_weights": "asset:fashion_cnn.safetensors",
            "student": {"name": "test_vit", "kwargs": {"img_size": 32}},
            "rows": {"kd": {"method.kwargs.temperature": 8}},
        },
    },
    "rows": {
        "scratch": None,
        "kd": {"method.kwargs.temperature": 2},
        "full": None,
        "shorter": {"epochs": 2, "method.kwargs.feature": "map"},
        "ofa": {"only": ["one"]},
        "named": "pat",
    },
}


def options_of(study: Study, pair: str) -> dict[str, Any]:
    return {row.name: study.options(pair, row, 1) for row in study.rows_of(pair)}


def test_a_row_is_the_base_plus_its_changes() -> None:
    one = options_of(Study.from_dict(STUDY), "one")
    assert one["scratch"].method == MethodOptions("scratch")
    assert one["kd"].method == MethodOptions("kd", {"temperature": 2})
    assert one["full"].method == MethodOptions("fbt", {"tail_stages": 2})
    assert one["shorter"].method == MethodOptions("fbt", {"tail_stages": 2, "feature": "map"})
    assert (one["shorter"].epochs, one["full"].epochs) == (2, 4)
    assert one["named"].method == MethodOptions("pat")
    assert one["full"].student == ModelOptions("test_resnet")
    assert (one["kd"].seed, one["kd"].data_seed) == (1, 1)
    # Judged at the end only, unless the study says otherwise.
    assert one["shorter"].evaluate_every == 2


def test_a_pair_may_change_a_row_and_a_row_may_be_of_some_pairs_only() -> None:
    two = options_of(Study.from_dict(STUDY), "two")
    assert two["kd"].method.kwargs == {"temperature": 8}
    assert "ofa" not in two
    assert two["full"].student == ModelOptions("test_vit", {"img_size": 32})


def test_arguments_go_with_the_name_that_they_belong_to() -> None:
    base = flatten({"student": {"name": "resnet18", "kwargs": {"in_chans": 3}}, "epochs": 1}, "")
    assert merge(base, flatten({"student": "resnet34"}, "")) == {"student.name": "resnet34", "epochs": 1}
    assert merge(base, flatten({"student": {"kwargs": {"drop_rate": 0.1}}}, ""))["student.kwargs.in_chans"] == 3


def test_what_is_written_is_read_back() -> None:
    study = Study.from_dict(STUDY | {"controls": ["self-teacher"], "budget": [1, 3], "baselines": ["scratch", "full"]})
    assert Study.from_dict(study.to_dict()) == study


def test_budgets_are_rows_with_other_lengths_and_baselines() -> None:
    study = Study.from_dict({"rows": ["scratch", "kd"], "recipe": {"epochs": 4, "max_steps": 9}, "budget": [1, 2.5]})
    rows = {row.name: row for row in study.rows_of("pair")}
    assert list(rows) == ["scratch", "kd", "scratch-x2.5", "kd-x2.5"]
    longer = study.options("pair", rows["kd-x2.5"])
    assert (longer.epochs, longer.max_steps, longer.evaluate_every, longer.method.name) == (10, 22, 10, "kd")
    assert study.baselines_of("pair", rows["kd-x2.5"]) == ["scratch-x2.5"]
    assert study.baselines_of("pair", rows["scratch"]) == []


def test_controls_are_rows() -> None:
    every = ["same-time", "label-smoothing", "random-teacher", "shuffled-teacher", "self-teacher"]
    study = Study.from_dict(STUDY | {"controls": every, "seeds": [3]})
    runs = {run.row.name: run for run in plan(study, Path("out")) if run.pair == "one"}
    smoothed = runs["scratch-label-smoothing"].options
    assert (smoothed.method.name, smoothed.label_smoothing) == ("scratch", 0.1)
    assert runs["kd-shuffled-teacher"].options.method == MethodOptions(
        "crossdistill.study.shuffled.ShuffledKD", {"temperature": 2}
    )
    drawn = runs["kd-random-teacher"].options
    # The file says which model it holds; the control is the same without its weights.
    assert (drawn.teacher.name, drawn.teacher_weights) == ("vit_tiny_patch16_224", "none")
    assert drawn.allow_weak_teacher
    assert drawn.teacher_image_size == [32, 32]
    own = runs["kd-self-teacher"]
    assert own.options.teacher_weights == "out/one/scratch/3/student.safetensors"
    assert (own.teacher_row, own.options.teacher, own.seed) == ("scratch", ModelOptions(), 3)
    assert runs["scratch-same-time"].options.method.name == "scratch"


def test_a_row_can_be_several_methods() -> None:
    study = Study.from_dict({"rows": {"kd+fitnet": {"method.kwargs.fitnet.feature_weight": 2}}, "seeds": 1})
    method = study.options("pair", study.rows["kd+fitnet"]).method
    assert method == MethodOptions("kd+fitnet", {"fitnet.feature_weight": 2})
    assert study.folder("pair", "kd+fitnet", 0) == Path("pair/kd+fitnet/0")
    assert Study.from_dict(study.to_dict()) == study


def test_flags_overrule_every_layer() -> None:
    study = Study.from_dict(STUDY).override(flatten({"epochs": 7, "student": "resnet18"}, ""))
    assert {options.epochs for options in options_of(study, "one").values()} == {7}
    assert options_of(study, "two")["full"].student == ModelOptions("resnet18")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"rows": ["skratch"], "recipe": None}, "row skratch: unknown method 'skratch'; did you mean 'scratch'?"),
        ({"rows": []}, "rows: name at least one method"),
        ({"recipe": {"epoch": 3}}, "recipe: unknown option 'epoch'; did you mean 'epochs'?"),
        ({"recipe": {"seed": 3}}, "a study sets seed for each run: give seeds instead"),
        ({"seeds": 0}, "seeds: there are none"),
        ({"seeds": "many"}, "give a number of seeds or a list"),
        ({"pair": {}}, "unknown field 'pair'; did you mean 'pairs'?"),
        ({"controls": ["same-tim"]}, "there is no 'same-tim'; did you mean 'same-time'?"),
        ({"rows": {"kd": None, "ofa": {"only": ["pair"]}}, "controls": ["same-time"]}, "needs a row scratch"),
        ({"rows": {"a/b": "kd"}}, "give a name of letters"),
        ({"rows": {"kd": {"only": ["three"]}}}, "there is no 'three'; there are pair"),
        ({"budget": [0]}, "budget: give factors"),
        ({"folders": "{method}"}, "folders: '{method}' may have {pair}, {row} and {seed} only"),
        ({"rows": {"kd": None, "kd-x3": "kd"}, "budget": [1, 3]}, "would be called 'kd-x3'"),
    ],
)
def test_mistakes_are_told_in_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as refused:
        Study.from_dict({"rows": ["scratch", "kd"]} | changes)
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_a_wrong_value_names_its_row() -> None:
    study = Study.from_dict({"rows": ["kd"], "recipe": {"epochs": "many"}})
    with pytest.raises(UserError, match="pair/kd: epochs: expected a whole number of at least 1, got 'many'"):
        study.options("pair", study.rows["kd"])


def test_two_runs_in_one_folder_are_refused() -> None:
    study = Study.from_dict({"rows": ["kd"], "seeds": 2, "folders": "{row}"})
    with pytest.raises(UserError, match="gives two runs the same folder"):
        plan(study, Path("out"))


def test_a_row_can_have_another_rows_student_as_its_teacher_but_not_its_own() -> None:
    study = Study.from_dict({"rows": {"kd": {"teacher_weights": "row:kd"}}, "seeds": 1})
    with pytest.raises(UserError, match="pair has no other row 'kd'"):
        plan(study, Path("out"))


def test_shipped_studies_are_whole() -> None:
    names = shipped_studies()
    assert {"quickstart", "fashion", "cifar10"} <= set(names)
    for name in names:
        study = read_study(name)
        assert study.question and study.seeds
        for pair in study.pairs:
            assert all(study.options(pair, row) for row in study.rows_of(pair))


def test_the_study_of_the_documentation_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    study = Study.from_dict(yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0]))
    rows = {row.name: study.options("vit-cnn", row) for row in study.rows_of("vit-cnn")}
    assert rows["kd-hot"].method == MethodOptions("kd", {"temperature": 8})
    assert (rows["longer"].method.name, rows["longer"].epochs, rows["kd-x10"].epochs) == ("fbt", 28, 140)
    assert "cakd" not in {row.name for row in study.rows_of("cnn-cnn")}
    assert "scratch-same-time" in rows


def test_a_misspelt_study_or_asset_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a file nor a shipped study; did you mean 'quickstart'"):
        read_study("quikstart")
    with pytest.raises(UserError, match="did you mean 'fashion_vit.safetensors'"):
        asset("asset:fashion_vitt.safetensors")
    (tmp_path / "study.yaml").write_text("- just\n- a list\n")
    with pytest.raises(UserError, match="is no study"):
        read_study(tmp_path / "study.yaml")
