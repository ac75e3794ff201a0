"""The published experiments: every run is composed, and each row of each makes two steps with tiny models."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from crossdistill.cli.distill import read_options, training_parser
from crossdistill.methods import parse_hyperparameters
from crossdistill.names import registered_names
from crossdistill.options import MethodOptions, ModelOptions, TrainingOptions
from crossdistill.study.files import read_study, shipped_recipes, shipped_studies
from crossdistill.study.study import Row, Study
from crossdistill.training import distill
from crossdistill.training.run import check_options

STUDIES = {name: read_study(name) for name in shipped_recipes()}
# What stands for a model, by how its name begins; the first that fits.
KINDS = {
    "deit_tiny_distilled": "distilled_vit",
    "deit_small_distilled": "distilled_vit",
    "deit_base_distilled": "distilled_vit",
    "deit": "vit",
    "vit": "vit",
    "swin": "swin",
    "mixer": "mlp",
    "resmlp": "mlp",
    "resnet": "cnn",
    "wide_resnet": "cnn",
    "mobilenet": "cnn",
    "efficientnet": "cnn",
    "regnet": "cnn",
    "convnext": "cnn",
}
# The methods that this project is for; the others are quick too, but many.
QUICK = {
    ("cifar100-cnn-students", "swin_t-resnet18", "fbt"),
    ("cifar100-token-students", "convnext_t-deit_ti", "pat"),
    ("imagenet-cskd", "deit_ti", "cskd"),
    ("imagenet-cakd", "vit_b-resnet50", "cakd"),
    ("transfer-cars", "deit_ti", "finetune"),
}


def runs(study: Study) -> Iterator[tuple[str, Row, TrainingOptions]]:
    for pair in study.pairs:
        for row in study.rows_of(pair):
            yield pair, row, study.options(pair, row)


@functools.cache
def timm_names() -> set[str]:
    return registered_names()


def kind_of(model: str) -> str:
    return next(kind for beginning, kind in KINDS.items() if model.startswith(beginning))


def distinct_rows() -> Iterator[tuple[str, str, str]]:
    """A pair of every row, for each combination of architectures that the study has."""
    for name, study in STUDIES.items():
        seen = set()
        for pair in study.pairs:
            for row in study.rows_of(pair):
                # Not the options, which take longer: this is asked for when tests are collected.
                layer = study.layer(pair, row)
                kinds = [kind_of(layer[model]) for model in ("student.name", "teacher.name") if model in layer]
                if (one := (row.name, *kinds)) not in seen:
                    seen.add(one)
                    yield name, pair, row.name


def tiny(model: ModelOptions, side: int) -> ModelOptions:
    if not model.name:
        return model
    return ModelOptions(f"crossdistill.testing.tiny_models.tiny_{kind_of(model.name)}", {"img_size": side})


@pytest.mark.parametrize("name", STUDIES)
def test_every_run_is_composed(name: str) -> None:
    study, models = STUDIES[name], timm_names()
    assert Study.from_dict(study.to_dict()) == study
    methods: list[MethodOptions] = []
    for pair, row, options in runs(study):
        for model in (options.student.name, options.teacher.name):
            assert not model or model.partition(".")[0] in models, f"{pair}/{row.name}: {model}"
        if options.method not in methods:
            methods.append(options.method)
            check_options(options)
            parse_hyperparameters(options.method)


@pytest.mark.parametrize("name", STUDIES)
def test_what_is_published_is_told(name: str) -> None:
    published = STUDIES[name].published
    assert published is not None and published.source and published.doubts
    assert published.images > 0 and published.classes > 0
    # The transfers' numbers could not be established.
    assert (published.range is None) == name.startswith("transfer-")


def test_tags_of_pretrained_weights_are_timms() -> None:
    import timm

    models = set()
    for study in STUDIES.values():
        for layer in (study.layer(pair, row) for pair in study.pairs for row in study.rows_of(pair)):
            models |= {layer.get(name, "") for name in ("student.name", "teacher.name")}
    tagged = {model for model in models if "." in model}
    assert len(tagged) > 10
    assert not [model for model in tagged if not timm.is_model_pretrained(model)]


@pytest.mark.parametrize("name", STUDIES)
def test_the_printed_recipe_of_a_run_is_the_run(name: str, tmp_path: Path) -> None:
    study, parser = STUDIES[name], training_parser("distill", "")
    first, printed = next(iter(study.pairs)), set()
    for pair, row, options in runs(study):
        # Every row of one pair, and every pair with one row.
        if pair != first and pair in printed:
            continue
        printed.add(pair)
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(study.recipe_of(pair, row)))
        assert read_options(parser, ["--config", str(file)])[0] == options


@pytest.mark.parametrize(
    ("name", "pair", "row"),
    [pytest.param(*one, marks=[] if one in QUICK else [pytest.mark.slow]) for one in distinct_rows()],
)
def test_a_row_makes_two_steps(name: str, pair: str, row: str, image_folder: Path, tmp_path: Path) -> None:
    study = STUDIES[name]
    options = study.options(pair, next(one for one in study.rows_of(pair) if one.name == row))
    # CSKD wants more than one position of the teacher.
    side = 64 if options.method.name == "cskd" else 32
    summary = distill(
        dataclasses.replace(
            options,
            student=tiny(options.student, side),
            student_weights="none",
            student_new_head=False,
            teacher=tiny(options.teacher, side),
            teacher_weights="none",
            teacher_image_size=None,
            allow_weak_teacher=True,
            preflight_images=0,
            data=str(image_folder),
            image_size=side,
            workers=0,
            accelerator="cpu",
            batch_size=12,
            max_steps=2,
            output=str(tmp_path / "run"),
        ),
        Console(quiet=True),
    )
    assert summary["steps"] == 2


def test_quick_rows_are_rows() -> None:
    assert set(distinct_rows()) >= QUICK


def test_the_documented_variant_of_a_recipe_changes_what_it_says(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    file = tmp_path / "study.yaml"
    file.write_text(page.partition("```yaml\n")[2].partition("```")[0])
    study, base = read_study(file), STUDIES["cifar100-cnn-students"]
    changed = study.options("swin_t-resnet18", study.rows["pat"])
    assert (changed.epochs, changed.method.kwargs) == (100, {"standardize_features": True, "regularization_weight": 10})
    assert changed.batch_size == base.options("swin_t-resnet18", base.rows["pat"]).batch_size == 128
    # The page's table and the folder have the same recipes.
    named = {name for name in STUDIES if f"`{name}`" in page or f"`{name.removeprefix('transfer')}`" in page}
    assert named == set(STUDIES)


def test_names_are_those_of_one_thing() -> None:
    assert not set(shipped_recipes()) & set(shipped_studies())
