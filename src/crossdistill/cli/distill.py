"""`crossdistill distill`: the main job."""

import argparse
import dataclasses
from collections.abc import Collection
from typing import Any

from jsonargparse import ArgumentParser, set_parsing_settings

from crossdistill.cli.parsing import make_parser, parse
from crossdistill.names import check_model_name
from crossdistill.options import PARTS, TrainingOptions
from crossdistill.options.values import plain

# How torchvision's detectors are called.
_DETECTORS = ("fasterrcnn_", "fcos_", "keypointrcnn_", "maskrcnn_", "retinanet_", "ssd")


def run(arguments: list[str]) -> None:
    """Train a student as the arguments say."""
    options, given = read_options(training_parser("distill", "Train a student with a teacher."), arguments)
    check_models(options)
    from crossdistill.training import distill

    distill(options, given=given)


def training_parser(verb: str, description: str) -> ArgumentParser:
    """A parser of every field of `TrainingOptions`, a group for each owner, with `--config` and `--print_config`."""
    # The meaning of a field stands below it.
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = make_parser(verb, description, usage="[--config RECIPE.yaml] [options]")
    parser.add_argument("--config", action="config", metavar="FILE", help="a YAML recipe; flags overrule it")
    for part in PARTS:
        parser.add_class_arguments(part)
    for option, action in parser._option_string_actions.items():
        if f"{option}.name" in parser._option_string_actions:
            action.metavar = "NAME"
            action.help = f"short for {option}.name"
        elif getattr(action, "_typehint", None) is bool:
            # A bare `--resume` is `--resume true`.
            action.nargs = "?"
            action.const = True
    return parser


def read_options(parser: ArgumentParser, arguments: list[str]) -> tuple[TrainingOptions, dict[str, Any]]:
    """Parse with a parser from `training_parser`: the options, and by name what was given, a verb's own too."""
    # A printed recipe is whole; the parser ends there.
    printed = any(argument.startswith("--print_config") for argument in arguments)
    given = parse(parser, arguments, defaults=printed).as_dict()
    given.pop("config", None)
    given = {name: plain(value) for name, value in given.items()}
    names = {field.name for field in dataclasses.fields(TrainingOptions)}
    return TrainingOptions.from_dict({name: value for name, value in given.items() if name in names}), given


def check_models(options: TrainingOptions) -> None:
    """Refuse names that no model has, before torch is imported for them.

    Raises:
        UserError: with the nearest name.
    """
    # A module of the user's own may bring models to timm, and is not imported yet.
    # torchvision's detectors, which may teach, are not named in timm.
    of_timm = options.task == "classification" or not options.teacher.name.startswith(_DETECTORS)
    if "." not in options.method.name and "." not in options.data and of_timm:
        for model in (options.student, options.teacher):
            check_model_name(model.name)


def hide_options(parser: ArgumentParser, names: Collection[str]) -> None:
    """Leave options out of `--help` that say nothing to a verb; recipes that have them are taken all the same."""
    for option, action in parser._option_string_actions.items():
        if option.removeprefix("--").partition(".")[0] in names:
            action.help = argparse.SUPPRESS
