"""Studies that are based on others, and what is published of their runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from crossdistill.errors import UserError
from crossdistill.options import MethodOptions
from crossdistill.study.collection import collect
from crossdistill.study.estimate import estimate, nominal_data
from crossdistill.study.files import read_study
from crossdistill.study.results import load_results
from crossdistill.study.study import Study
from crossdistill.study.tables import cells, lines_below, markdown
from study.conftest import quiet

BASE: dict[str, Any] = {
    "seeds": 2,
    "recipe": {"data": "cifar10", "epochs": 4, "method": {"name": "fbt", "kwargs": {"gamma": 2}}},
    "pairs": {"one": {"student": "test_resnet", "rows": {"kd": {"method.kwargs.temperature": 8}}}},
    "rows": {"scratch": None, "kd": {"method.kwargs": {"temperature": 2, "label_weight": 1}}},
    "published": {"source": "a book", "top1": {"one": {"kd": 70.5}}, "doubts": ["First."]},
}


def write(folder: Path, **studies: dict[str, Any]) -> Path:
    """Files of studies; the path of the last one."""
    path = folder
    for name, values in studies.items():
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def test_a_study_is_laid_over_its_base(tmp_path: Path) -> None:
    upper = {
        "base": "base.yaml",
        "recipe": {"epochs": 9},
        "pairs": {"one": {"batch_size": 8}, "two": {"student": "test_vit"}},
        "rows": {"kd": {"method.kwargs.temperature": 3}, "full": None},
        "published": {"top1": {"one": {"scratch": 60}, "two": {"kd": 65}}, "doubts": ["Second."]},
    }
    study = read_study(write(tmp_path, base=BASE, upper=upper))
    assert (list(study.pairs), list(study.rows), study.seeds) == (["one", "two"], ["scratch", "kd", "full"], (0, 1))
    kd = study.options("one", study.rows["kd"])
    assert (kd.epochs, kd.batch_size, kd.data) == (9, 8, "cifar10")
    # What a pair changes in a row overrules the row, the upper study's too.
    assert kd.method == MethodOptions("kd", {"temperature": 8, "label_weight": 1})
    assert study.options("two", study.rows["kd"]).method.kwargs["temperature"] == 3
    assert study.options("two", study.rows["full"]).method == MethodOptions("fbt", {"gamma": 2})
    assert study.published is not None
    assert study.published.top1 == {"one": {"kd": 70.5, "scratch": 60.0}, "two": {"kd": 65.0}}
    assert (study.published.source, study.published.doubts) == ("a book", ("Second.", "First."))
    # Composed, it stands by itself.
    assert Study.from_dict(study.to_dict()) == study


def test_another_method_of_a_row_leaves_the_arguments_of_the_base_behind(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, base=BASE, upper={"base": "base.yaml", "rows": {"kd": "dkd"}}))
    changes = study.rows["kd"].changes
    assert changes == {"method.name": "dkd"}


def test_of_several_bases_the_later_overrules(tmp_path: Path) -> None:
    other = {"recipe": {"epochs": 7, "mixup": 0.2}}
    upper = {"base": ["base.yaml", "other.yaml"], "recipe": {"mixup": 0.5}}
    recipe = read_study(write(tmp_path, base=BASE, other=other, upper=upper)).recipe
    assert (recipe["epochs"], recipe["mixup"], recipe["data"]) == (7, 0.5, "cifar10")


def test_a_shipped_study_may_be_a_base(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, upper={"base": "imagenet-cskd", "recipe": {"epochs": 3}}))
    assert study.options("deit_s", study.rows["cskd"]).epochs == 3
    assert study.pairs == read_study("imagenet-cskd").pairs


@pytest.mark.parametrize(
    ("studies", "line"),
    [
        ({"a": {"base": "b.yaml"}}, "a.yaml: base: 'b.yaml' is neither a file nor a shipped study"),
        ({"b": {"base": "a.yaml"}, "a": {"base": "b.yaml"}}, "in a circle: a.yaml -> b.yaml -> a.yaml"),
        ({"a": {"base": {"b": 1}}}, "a.yaml: base: give a file or a list of files, got '{'b': 1}'"),
        ({"b": {"recipe": {"epoch": 3}}, "a": {"base": "b.yaml"}}, "b.yaml: recipe: unknown option 'epoch'"),
        ({"a": BASE | {"published": {"top": 3}}}, "published: unknown field 'top'; did you mean 'top1'?"),
        ({"a": BASE | {"published": {"top1": {"two": {}}}}}, "published: there is no 'two'"),
        ({"a": BASE | {"published": {"top1": {"one": {"k": 1}}}}}, "published: top1: one: there is no 'k'"),
        ({"a": BASE | {"published": {"top1": {"one": {"kd": "x"}}}}}, "top1: one: kd: expected a percentage, got 'x'"),
        ({"a": BASE | {"published": {"images": "many"}}}, "published: images: expected a whole number, got 'many'"),
        ({"a": BASE | {"published": {"doubts": "none"}}}, "published: doubts: expected a list, got 'none'"),
        ({"a": BASE | {"published": 71}}, "published: expected a source, top1 and doubts, got '71'"),
    ],
)
def test_mistakes_are_told_in_one_line(studies: dict[str, dict[str, Any]], line: str, tmp_path: Path) -> None:
    path = write(tmp_path, **studies)
    with pytest.raises(UserError) as told:
        read_study(path)
    assert line in str(told.value) and "\n" not in str(told.value)


def test_a_row_for_some_pairs_has_no_number_for_others() -> None:
    with pytest.raises(UserError, match="published: top1: two: there is no 'kd'"):
        Study.from_dict(
            {
                "pairs": {"one": None, "two": None},
                "rows": {"scratch": None, "kd": {"only": ["one"]}},
                "published": {"top1": {"two": {"kd": 1}}},
            }
        )


def test_published_numbers_stand_beside_ours(finished: Path, small: dict[str, Any], tmp_path: Path) -> None:
    (plain,) = collect(finished).pairs
    assert "published %" not in cells(collect(finished), plain)[0]
    quiet(small | {"published": {"source": "a book", "top1": {"pair": {"kd": 70.5}}}, "seeds": 1}, tmp_path / "study")
    results = load_results(tmp_path / "study")
    header, scratch, kd = cells(results, results.pairs[0])
    assert header[:4] == ["row", "seeds", "top-1 %", "published %"]
    assert (scratch[3], kd[3]) == ("", "70.50")
    assert "| published % |" in markdown(results)
    assert any("published numbers: a book" in line for line in lines_below(results))


def test_a_run_is_timed_without_its_data_and_weights(small: dict[str, Any]) -> None:
    nowhere = {"data": "nowhere", "teacher": "test_vit", "teacher_weights": "nowhere.safetensors", "batch_size": 512}
    nowhere |= {"epochs": 3, "image_size": 160}
    study = Study.from_dict(small | {"recipe": small["recipe"] | nowhere, "rows": ["kd"]})
    data = nominal_data(images=6000, classes=10)
    (kd,) = estimate(study, data=data, weights=False, largest_batch=2)
    assert (kd.steps, kd.refusal) == (3 * (6000 // 512), "")
    assert 0 < kd.step_seconds < 256 * 60
    # No memory behind the images.
    assert data.train.pixels is not None and data.train.pixels.untyped_storage().nbytes() == 3
    assert data.train.labels.unique().equal(torch.arange(10))


def test_a_recipe_says_what_is_not_at_its_default(small: dict[str, Any]) -> None:
    rows = {"scratch": None, "self": {"method": "kd", "teacher_weights": "row:scratch"}}
    study = Study.from_dict(small | {"rows": rows})
    recipe = study.recipe_of("pair", study.rows["scratch"])
    assert recipe["method"] == "scratch" and recipe["student"] == "test_resnet" and "accumulate" not in recipe
    with pytest.raises(UserError, match="pair/self: no recipe can say teacher_weights: row:scratch"):
        study.recipe_of("pair", study.rows["self"])
