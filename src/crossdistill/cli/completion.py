"""`crossdistill --print_completion SHELL`: what a shell needs to complete verbs, options and their choices."""

import argparse
import importlib
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from crossdistill.cli.parsing import built_parser
from crossdistill.errors import UserError, nearest
from crossdistill.methods import METHODS

# Options that name a file or a folder.
_PATHS = ("config", "data", "output", "student_weights", "teacher_weights", "teacher_classes", "teacher_cache")


def completion(shell: str, verbs: Mapping[str, tuple[str, str]]) -> str:
    """The script that completes the command in `shell`, by shtab.

    Args:
        shell: bash, zsh, fish or another that shtab knows.
        verbs: the table of verbs.

    Raises:
        UserError: another shell.
    """
    import shtab

    if shell not in shtab.SUPPORTED_SHELLS:
        known = ", ".join(shtab.SUPPORTED_SHELLS)
        raise UserError(f"--print_completion: '{shell}' is none of {known}{nearest(shell, shtab.SUPPORTED_SHELLS)}")
    whole = argparse.ArgumentParser("crossdistill")
    table = whole.add_subparsers()
    for verb, (module, line) in verbs.items():
        one = table.add_parser(verb, help=line, description=line, add_help=False)
        for action in built_parser(importlib.import_module(module).run)._actions:
            _add(one, action, shtab.FILE)
    return shtab.complete(whole, shell)


def _add(parser: argparse.ArgumentParser, action: argparse.Action, file: Any) -> None:
    # "--list+" is jsonargparse's way to append to a list.
    names = [name for name in action.option_strings if not name.endswith("+")]
    if action.help == argparse.SUPPRESS or action.dest == "print_config":
        return
    takes = {"nargs": action.nargs} if action.nargs is not None else {}
    if action.nargs == 0:
        takes = {"action": "store_true"}
    # Its type would read "%" in a text as a format.
    summary = " ".join((action.help or "").replace("%", "%%").split())
    if names:
        added = parser.add_argument(*names, help=summary, dest=action.dest.replace(".", "_"), **takes)  # type: ignore[arg-type]
    else:
        added = parser.add_argument(action.dest, help=summary, **takes)  # type: ignore[arg-type]
    choices = _choices(action)
    if choices and action.nargs != 0:
        added.choices = choices
    elif action.dest in _PATHS or not names:
        added.complete = file  # type: ignore[attr-defined]


def _choices(action: argparse.Action) -> list[str] | None:
    if action.dest in ("method", "method.name", "methods"):
        return list(METHODS)
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    kind: Any = getattr(action, "_typehint", None)
    if get_origin(kind) is Literal:
        return [str(choice) for choice in get_args(kind)]
    return ["true", "false"] if kind is bool else None
