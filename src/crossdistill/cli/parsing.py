"""What all verbs share when they parse: recipes, short forms, and mistakes told in one line with what to do.

The parsing itself is jsonargparse's. Before it, the arguments are rewritten (`expand`): a recipe becomes the flags that
it stands for, so that an option means the same in YAML and on the command line, and `--student NAME` becomes
`--student.name NAME`, so that it mixes with `--student.kwargs.img_size=32`.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, get_loader

from crossdistill.errors import UserError, nearest
from crossdistill.methods import METHODS
from crossdistill.methods.catalogue import read_entry
from crossdistill.options import type_in_words

# More names than this hide what is to be done.
_METHODS_TOLD = 4
# What users of other trainers call our options.
_ELSEWHERE = {
    "lr": "learning_rate",
    "base_lr": "learning_rate",
    "min_lr": "min_learning_rate",
    "warmup_lr": "warmup_learning_rate",
    "wd": "weight_decay",
    "bs": "batch_size",
    "opt": "optimizer",
    "sched": "schedule",
    "model": "student",
    "arch": "student",
    "pretrained": "student_weights",
    "initial_checkpoint": "student_weights",
    "dataset": "data",
    "data_dir": "data",
    "data_path": "data",
    "output_dir": "output",
    "out": "output",
    "max_epochs": "epochs",
    "num_epochs": "epochs",
    "steps": "max_steps",
    "img_size": "image_size",
    "input_size": "image_size",
    "num_workers": "workers",
    "gpus": "devices",
    "num_nodes": "nodes",
    "amp": "precision",
    "smoothing": "label_smoothing",
    "clip_grad": "clip_gradient",
    "grad_accum_steps": "accumulate",
    "reprob": "random_erasing",
    "aa": "rand_augment",
    "hflip": "flip",
    "model_ema_decay": "ema_decay",
}


def make_parser(verb: str, description: str, usage: str | None = None) -> ArgumentParser:
    """An empty parser for one verb.

    Args:
        verb: as in `crossdistill VERB`.
        description: what `--help` says above the options.
        usage: what follows the verb in the usage line; default: every option.
    """
    return ArgumentParser(
        prog=f"crossdistill {verb}",
        usage=usage and f"crossdistill {verb} {usage}",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
    )


# Set while a verb is asked for its parser alone.
_ASKED: ContextVar[bool] = ContextVar("_ASKED", default=False)


class _Built(Exception):
    """Carries a verb's parser out of the verb."""


def built_parser(run: Callable[[list[str]], None]) -> ArgumentParser:
    """The parser that a verb's `run` builds; nothing is parsed and nothing done."""
    asked = _ASKED.set(True)
    try:
        run([])
    except _Built as built:
        parser: ArgumentParser = built.args[0]
        return parser
    finally:
        _ASKED.reset(asked)
    raise AssertionError(f"{run.__module__} parses nothing")


def parse(parser: ArgumentParser, arguments: list[str], *, defaults: bool = True) -> Namespace:
    """The parsed arguments.

    Args:
        parser: from `make_parser`.
        arguments: what follows the verb.
        defaults: give what was not given its default; False leaves it out.

    Raises:
        UserError: an unknown option (with the nearest), a value of another type, or an unreadable recipe.
    """
    if _ASKED.get():
        raise _Built(parser)
    arguments = expand(parser, arguments)
    try:
        return parser.parse_args(arguments, defaults=defaults)
    except ArgumentError as error:
        raise UserError(_explain(parser, arguments, str(error))) from error


def expand(parser: ArgumentParser, arguments: list[str]) -> list[str]:
    """The arguments with recipes and short forms written out; recipes come first, so that flags overrule them.

    Raises:
        UserError: an unknown option or an unreadable recipe.
    """
    known = _options(parser)
    recipes: list[str] = []
    flags: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        option, equals, value = argument.partition("=")
        if option == "--":
            flags.append(argument)
            break
        if option.startswith("--") and not _is_known(option, known):
            raise UserError(f"unknown option '{option}'{_suggestion(option, known)} (see: {parser.prog} --help)")
        if option == "--config":
            recipes += _read_recipe(value if equals else next(remaining, ""), known - {"--config", "--print_config"})
        elif f"{option}.name" in known:
            flags.append(f"{option}.name{equals}{value}")
        else:
            flags.append(argument)
    return [*recipes, *flags, *remaining]


def _options(parser: ArgumentParser) -> set[str]:
    # "--list+" is jsonargparse's way to append to a list; no name of ours.
    return {option for option in parser._option_string_actions if not option.endswith("+")}


def _is_known(option: str, known: set[str]) -> bool:
    group, kwargs, _ = option.partition(".kwargs.")
    return option in known or f"{option}.name" in known or (bool(kwargs) and f"{group}.kwargs" in known)


def _suggestion(option: str, known: set[str]) -> str:
    """What was probably meant: another program's name for it, a method's hyper-parameter, or the nearest name."""
    name = option.removeprefix("--").replace("-", "_")
    if f"--{name}" in known:
        return f"; did you mean '--{name}'?"
    if f"--{_ELSEWHERE.get(name)}" in known:
        return f"; did you mean '--{_ELSEWHERE[name]}'?"
    if "--method.kwargs" in known:
        methods = [method for method, path in METHODS.items() if name in read_entry(path).hyperparameters]
        if methods:
            told = ", ".join(methods[:_METHODS_TOLD])
            more = f" and {len(methods) - _METHODS_TOLD} more" if len(methods) > _METHODS_TOLD else ""
            return f"; as a hyper-parameter of {told}{more} it is '--method.kwargs.{name}'"
    return nearest(option, known)


def _read_recipe(path: str, known: set[str]) -> list[str]:
    """The flags that a YAML file stands for."""
    if not path:
        raise UserError("--config needs a file")
    try:
        text = Path(path).read_text(encoding="utf-8")
        # jsonargparse's loader, because plain YAML 1.1 reads 1e-3 as text.
        recipe = get_loader("yaml")(text)
    except OSError as error:
        raise UserError(f"--config: cannot read '{path}': {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--config: '{path}' is not YAML: {error}") from error
    if recipe is None:
        return []
    if not isinstance(recipe, dict):
        raise UserError(f"--config: '{path}' is not a recipe, which is options and values such as `epochs: 50`")
    return list(_flags(recipe, "", path, known))


def _flags(values: dict[Any, Any], group: str, path: str, known: set[str]) -> Iterator[str]:
    """The flags of one group of a recipe. A null leaves an option as it is."""
    for key, value in values.items():
        name = f"{group}{key}"
        if f"--{name}.name" in known:
            inner = value if isinstance(value, dict) else {"name": value}
            yield from _flags(inner, f"{name}.", path, known)
            continue
        if not _is_known(f"--{name}", known):
            names = [option.removeprefix("--") for option in known]
            raise UserError(f"--config: unknown option '{name}' in '{path}'{nearest(name, names)}")
        if value is not None:
            yield f"--{name}={value if isinstance(value, str) else json.dumps(value, default=str)}"


def _explain(parser: ArgumentParser, arguments: list[str], message: str) -> str:
    """One line for jsonargparse's message on expanded arguments: the flag, what it takes and what it got."""
    wrong_value = re.match(r'Parser key "([^"]+)":', message)
    if wrong_value:
        name = wrong_value[1]
        action = parser._option_string_actions.get(f"--{name}")
        wanted = type_in_words(getattr(action, "_typehint", None))
        return f"--{name}: expected {wanted}, got '{_given(arguments, name)}'"
    no_value = re.match(r"argument (--\S+): expected one argument", message)
    if no_value:
        return f"{no_value[1]} needs a value (see: {parser.prog} --help)"
    no_choice = re.match(r"argument (--\S+): invalid choice: (.*) \(choose from (.*)\)", message)
    if no_choice:
        return f"{no_choice[1]}: expected one of {no_choice[3]}, got {no_choice[2]}"
    missing = re.match(r"the following arguments are required: (.*)", message)
    if missing:
        names = [f"--{name}" if f"--{name}" in _options(parser) else name for name in missing[1].split(", ")]
        return f"missing: {', '.join(names)} (see: {parser.prog} --help)"
    return f"{' '.join(message.split())} (see: {parser.prog} --help)"


def _given(arguments: list[str], name: str) -> str:
    """The last value that an option was given."""
    value = ""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == f"--{name}":
            value = following
        elif argument.startswith(f"--{name}="):
            value = argument.partition("=")[2]
    return value
