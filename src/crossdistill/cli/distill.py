"""`crossdistill distill`: the main job."""

import argparse
import dataclasses

from jsonargparse import ArgumentParser

from crossdistill.cli.parsing import expand, make_parser, parse
from crossdistill.options import TrainingOptions


def run(arguments: list[str]) -> None:
    """Train a student as the arguments say."""
    options, given = read_options(training_parser("distill", "Train a student with a teacher."), arguments)
    from crossdistill.training import distill

    distill(options, given=given)


def training_parser(verb: str, description: str) -> ArgumentParser:
    """A parser of every field of `TrainingOptions`, with `--config` and `--print_config`."""
    parser = make_parser(verb, description, usage="[--config RECIPE.yaml] [options]")
    parser.add_argument("--config", action="config", metavar="FILE", help="a YAML recipe; flags overrule it")
    parser.add_class_arguments(TrainingOptions)
    for option, action in parser._option_string_actions.items():
        if f"{option}.name" in parser._option_string_actions:
            action.metavar = "NAME"
            action.help = f"short for {option}.name"
        elif getattr(action, "_typehint", None) is bool:
            # A bare `--resume` is `--resume true`.
            action.nargs = "?"
            action.const = True
    return parser


def read_options(parser: ArgumentParser, arguments: list[str]) -> tuple[TrainingOptions, set[str]]:
    """Parse with a parser from `training_parser`: the options, and the names of those that were given."""
    arguments = expand(parser, arguments)
    values = parser.instantiate(parse(parser, arguments))
    given = parser.parse_args(arguments, defaults=False)
    options = TrainingOptions(**{field.name: values[field.name] for field in dataclasses.fields(TrainingOptions)})
    return options, set(given.as_dict())


def hide(parser: ArgumentParser, prefixes: tuple[str, ...]) -> None:
    """Leave the options that begin so out of `--help`."""
    for option, action in parser._option_string_actions.items():
        if option.removeprefix("--").startswith(prefixes):
            action.help = argparse.SUPPRESS
