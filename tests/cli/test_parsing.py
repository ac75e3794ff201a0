"""Short forms, recipes and typed options: what reaches `crossdistill.training.run`, and what is refused in one line."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest
import yaml

import crossdistill.training
from crossdistill.cli import main
from crossdistill.options import MethodOptions, ModelOptions, TrainingOptions, type_in_words


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[TrainingOptions]:
    """The options of the runs that the command would have started."""
    calls: list[TrainingOptions] = []
    # The names of models are made up here.
    monkeypatch.setattr("crossdistill.cli.distill.check_model_name", lambda name: None)
    monkeypatch.setattr(crossdistill.training, "distill", lambda options, given: calls.append(options))
    return calls


def options_of(given: list[TrainingOptions], *arguments: str, verb: str = "distill") -> TrainingOptions:
    assert main([verb, *arguments]) == 0
    return given[-1]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str, verb: str = "distill") -> str:
    assert main([verb, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("crossdistill: ")
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("crossdistill: ").strip()


@pytest.fixture
def recipe(tmp_path: Path):
    def write(text: str, name: str = "recipe.yaml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_nothing_given_is_the_defaults(given: list[TrainingOptions]) -> None:
    assert options_of(given) == TrainingOptions()


def test_typed_options(given: list[TrainingOptions]) -> None:
    options = options_of(
        given, "--epochs", "3", "--learning_rate=1e-4", "--image_size", "64", "--precision", "32", "--resume", "true"
    )
    assert options == TrainingOptions(epochs=3, learning_rate=1e-4, image_size=64, precision="32", resume=True)


def test_a_bare_switch_is_true(given: list[TrainingOptions]) -> None:
    options = options_of(given, "--resume", "--allow_weak_teacher", "--compile", "false")
    assert (options.resume, options.allow_weak_teacher, options.compile) == (True, True, False)


def test_two_sides(given: list[TrainingOptions]) -> None:
    assert options_of(given, "--image_size=[64, 96]").image_size == [64, 96]


@pytest.mark.parametrize("arguments", [["--student", "vit"], ["--student=vit"], ["--student.name", "vit"]])
def test_short_form(arguments: list[str], given: list[TrainingOptions]) -> None:
    assert options_of(given, *arguments).student == ModelOptions("vit")


def test_short_form_mixes_with_arguments_in_any_order(given: list[TrainingOptions]) -> None:
    options = options_of(
        given,
        *("--student.kwargs.img_size=32", "--student", "vit", "--student.kwargs.patch_size", "4"),
        *("--method.kwargs.schedule=cosine", "--method", "my_lab.methods.Foo", "--method.kwargs.temperature", "4"),
        *("--teacher", "hf-hub:timm/vit", "--teacher.kwargs={a: {b: [1, 2]}}"),
    )
    assert options.student == ModelOptions("vit", {"img_size": 32, "patch_size": 4})
    assert options.method == MethodOptions("my_lab.methods.Foo", {"schedule": "cosine", "temperature": 4})
    assert options.teacher == ModelOptions("hf-hub:timm/vit", {"a": {"b": [1, 2]}})


def test_text_options_stay_text(given: list[TrainingOptions]) -> None:
    options = options_of(given, "--data", "123", "--output=a=b", "--student", "1e3", "--cache_images", "true")
    assert (options.data, options.output, options.student.name, options.cache_images) == ("123", "a=b", "1e3", "true")


def test_recipe_reads_as_flags_do(given: list[TrainingOptions], recipe) -> None:
    path = recipe("""
        student: resnet10t
        teacher: {name: vit, kwargs: {img_size: 64, drop: 1e-3, act: "gelu"}}
        method.kwargs.temperature: 2
        method: kd
        learning_rate: 1e-4
        precision: 32
        cache_images: false
        image_size: [64, 96]
        data_seed:
    """)
    assert options_of(given, "--config", path) == TrainingOptions(
        student=ModelOptions("resnet10t"),
        teacher=ModelOptions("vit", {"img_size": 64, "drop": 1e-3, "act": "gelu"}),
        method=MethodOptions("kd", {"temperature": 2}),
        learning_rate=1e-4,
        precision="32",
        cache_images="false",
        image_size=[64, 96],
    )


def test_flags_overrule_a_recipe_wherever_they_stand(given: list[TrainingOptions], recipe) -> None:
    path = recipe("epochs: 5\nseed: 1\nstudent: {name: a, kwargs: {x: 1, y: 1}}\n")
    options = options_of(given, "--epochs", "7", "--student.kwargs.y=2", f"--config={path}", "--student", "b")
    assert (options.epochs, options.seed) == (7, 1)
    assert options.student == ModelOptions("b", {"x": 1, "y": 2})


def test_a_later_recipe_overrules_an_earlier(given: list[TrainingOptions], recipe) -> None:
    base, special = recipe("epochs: 5\nseed: 1\n", "base.yaml"), recipe("epochs: 6\n", "special.yaml")
    options = options_of(given, "--config", base, "--config", special)
    assert (options.epochs, options.seed) == (6, 1)


def test_empty_recipe(given: list[TrainingOptions], recipe) -> None:
    assert options_of(given, "--config", recipe("# nothing\n")) == TrainingOptions()


def test_recipe_of_a_run_can_be_given_again(given: list[TrainingOptions], recipe) -> None:
    options = TrainingOptions(
        output="runs/a",
        student=ModelOptions("vit", {"img_size": 32, "name": "x y"}),
        method=MethodOptions("ofa", {"gamma": [1.0, 2.0]}),
        image_size=[32, 48],
        warmup_epochs=0.5,
        clip_gradient=1.0,
    )
    path = recipe(yaml.safe_dump(dataclasses.asdict(options)))
    assert options_of(given, "--config", path) == options


def test_print_config_is_a_recipe(given: list[TrainingOptions], recipe, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--student", "vit", "--student.kwargs.img_size=32", "--epochs", "3", "--learning_rate", "1e-05"]
    assert main(["distill", *arguments, "--print_config"]) == 0
    printed = capsys.readouterr().out
    # A whole recipe, not only what was given.
    assert all(f"{field.name}:" in printed for field in dataclasses.fields(TrainingOptions))
    path = recipe(printed)
    assert given == []
    assert options_of(given, "--config", path) == options_of(given, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "3"], "unknown option '--epoch'; did you mean '--epochs'? (see: crossdistill distill --help)"),
        (["--studnt.kwargs.x=3"], "unknown option '--studnt.kwargs.x'; did you mean '--student.kwargs'?"),
        (["--student.nam", "x"], "unknown option '--student.nam'; did you mean '--student.name'?"),
        (["--lr", "1"], "unknown option '--lr'; did you mean '--learning_rate'?"),
        (["--batch-size=3"], "unknown option '--batch-size'; did you mean '--batch_size'?"),
        (["--temperature", "2"], "more it is '--method.kwargs.temperature'"),
        (["--epochs", "0"], "--epochs: expected a whole number of at least 1, got '0'"),
        (["--max_steps", "0"], "--max_steps: expected a whole number of at least 1, got '0'"),
        (["--flip", "0.5", "--flip=3"], "--flip: expected a number from 0 to 1, got '3'"),
        (["--xyzzy"], "unknown option '--xyzzy' (see: crossdistill distill --help)"),
        (["--epochs", "x"], "--epochs: expected a whole number of at least 1, got 'x'"),
        (["--epochs", "2.5"], "--epochs: expected a whole number of at least 1, got '2.5'"),
        (["--learning_rate", "fast"], "--learning_rate: expected a number of at least 0, got 'fast'"),
        (["--resume", "maybe"], "--resume: expected true or false, got 'maybe'"),
        (["--precision", "8"], "--precision: expected 32 or bf16-mixed or 16-mixed, got '8'"),
        (
            ["--image_size", "64,96"],
            "--image_size: expected a whole number or a list of whole numbers such as [64,96], got '64,96'",
        ),
        (["--student.kwargs", "32"], "--student.kwargs: expected settings such as {key: value}, got '32'"),
        (["--epochs"], "--epochs needs a value (see: crossdistill distill --help)"),
        (["--student"], "--student.name needs a value (see: crossdistill distill --help)"),
        (["runs/a"], "unrecognized arguments: runs/a (see: crossdistill distill --help)"),
        (["--config"], "--config needs a file"),
        (["--config", "none.yaml"], "--config: cannot read 'none.yaml': No such file or directory"),
    ],
)
def test_refused_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refusal(capsys, *arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "unknown option 'epoch' in '{path}'; did you mean 'epochs'?"),
        ("student: {nam: x}", "unknown option 'student.nam' in '{path}'; did you mean 'student.name'?"),
        ("epochs: many", "--epochs: expected a whole number of at least 1, got 'many'"),
        ("epochs: [3]", "--epochs: expected a whole number of at least 1, got '[3]'"),
        ("precision: 8", "--precision: expected 32 or bf16-mixed or 16-mixed, got '8'"),
        ("config: other.yaml", "unknown option 'config' in '{path}'"),
        ("- epochs\n- 3", "'{path}' is not a recipe"),
        ("just words", "'{path}' is not a recipe"),
        ("epochs: [3", "'{path}' is not YAML"),
    ],
)
def test_refused_recipes(text: str, message: str, recipe, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(text)
    assert message.format(path=path) in refusal(capsys, "--config", path)


def test_a_recipe_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(bytes(range(256)))
    assert f"'{path}' is not YAML" in refusal(capsys, "--config", str(path))
    assert f"cannot read '{tmp_path}'" in refusal(capsys, "--config", str(tmp_path))


def test_train_is_scratch(given: list[TrainingOptions], recipe) -> None:
    expected = TrainingOptions(student=ModelOptions("vit"), method=MethodOptions("scratch"), epochs=3)
    assert options_of(given, "--student", "vit", "--epochs", "3", verb="train") == expected
    assert options_of(given, "--config", recipe(yaml.safe_dump(dataclasses.asdict(expected))), verb="train") == expected


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--teacher", "vit"], "teacher"),
        (["--teacher.kwargs.img_size=32"], "teacher"),
        (["--teacher_weights", "pretrained"], "teacher_weights"),
        (["--teacher_image_size", "64"], "teacher_image_size"),
        (["--allow_weak_teacher", "true"], "allow_weak_teacher"),
        (["--method", "kd"], "method"),
        (["--method.kwargs.temperature=2"], "method"),
    ],
)
def test_train_refuses_a_teacher(arguments: list[str], option: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, *arguments, verb="train")
    assert message == f"train takes no --{option}, it trains a model alone; use: crossdistill distill"


def test_help_of_train_leaves_the_teacher_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--student NAME" in shown and "--epochs EPOCHS" in shown
    assert "--teacher" not in shown and "--method" not in shown


def test_help_of_distill_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(TrainingOptions):
        assert f"--{field.name} " in shown
    assert "passes over the training set." in shown
    assert "short for --student.name" in shown


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "a whole number"),
        (float | None, "a number"),
        (Literal["a", "b"], "a or b"),
        (int | list[int] | None, "a whole number or a list of whole numbers such as [64,96]"),
        (dict[str, int], "settings such as {key: value}"),
        (str, "text"),
    ],
)
def test_types_in_words(annotation: object, words: str) -> None:
    assert type_in_words(annotation) == words
