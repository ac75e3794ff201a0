"""The command `crossdistill VERB ...`: a lazy table of verbs, and what becomes of errors.

A verb's module is imported when the verb is called, and it imports torch only after its options are parsed, so that
every `--help` and every misspelt option is answered at once.
"""

import errno
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from crossdistill import __version__
from crossdistill.errors import UserCaution, UserError, nearest

# Verb -> module with `run(arguments: list[str]) -> None`, and the line that `crossdistill --help` shows.
VERBS: dict[str, tuple[str, str]] = {
    "distill": ("crossdistill.cli.distill", "train a student with a teacher"),
    "train": ("crossdistill.cli.train", "train a model alone: a teacher, or the scratch baseline"),
    "compare": ("crossdistill.cli.compare", "methods x seeds under one recipe, and whether the difference is noise"),
    "studies": ("crossdistill.cli.studies", "the studies that ship with the package"),
    "recipes": ("crossdistill.cli.recipes", "the published experiments that ship with the package"),
    "tune": ("crossdistill.cli.tune", "choose hyper-parameters on held-out training images"),
    "report": ("crossdistill.cli.report", "one HTML page about a run or a study"),
    "evaluate": ("crossdistill.cli.evaluate", "accuracy of a saved model on a data set"),
    "predict": ("crossdistill.cli.predict", "classes of image files and of folders of them"),
    "export": ("crossdistill.cli.export", "a student for ONNX, OpenVINO, timm and others, judged and measured there"),
    "inspect": ("crossdistill.cli.inspect", "a teacher and a student side by side, and what each method costs"),
    "analyze": ("crossdistill.cli.analyze", "what the stages of two models have in common, and where they look"),
    "rank": ("crossdistill.cli.rank", "candidate teachers side by side, before any training"),
    "cache": ("crossdistill.cli.cache", "what the teacher of a run says, computed once and kept on disk"),
    "methods": ("crossdistill.cli.methods", "the methods, their references and hyper-parameters"),
    "models": ("crossdistill.cli.models", "the names of timm's models"),
    "quickstart": ("crossdistill.cli.quickstart", "the whole story on a built-in data set, on a CPU, in minutes"),
}

# What stands in the way of a file, and what helps; it is the user's to mend even where no path is named.
_REMEDIES = {
    errno.ENOSPC: "free some space, or choose another place",
    errno.EDQUOT: "free some space, or choose another place",
    errno.EROFS: "choose another place",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
}
_ANOTHER_PATH = "check the path, or choose another place"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: arguments after the command's name; default: those of the process.

    Returns:
        Exit code: 0; 2 after a user's mistake, told in one line on stderr; 3 where a verb did its work on a part of
        what it was given and named the rest on stderr; 130 after Ctrl-C. A defect of this package keeps its traceback.
    """
    # A console script does not look for modules where it is called, but that is where users keep their own methods.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        with warnings.catch_warnings():
            warnings.showwarning = partial(_show_warning, warnings.showwarning)
            try:
                _dispatch(list(sys.argv[1:] if argv is None else argv))
            finally:
                # Here, because a pipe that was closed early shows only when the buffer is written out.
                sys.stdout.flush()
    except UserError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `crossdistill models | head`: nobody reads on; the interpreter's own flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # With a path it is a path that the user gave; without one it says nothing that a user could act on.
        if error.errno not in _REMEDIES and error.filename is None:
            raise
        where = "" if error.filename is None else f" ({error.filename})"
        return _refuse(f"{error.strerror}{where}: {_REMEDIES.get(error.errno or 0, _ANOTHER_PATH)}")
    except SystemExit as end:
        # --help and --print_config end the parser this way, and verbs that have an exit code of their own; as for
        # Python itself, a text is an error.
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code if isinstance(end.code, int) else 0
    return 0


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return
    if arguments[0] == "--version":
        print(__version__)
        return
    if arguments[0] == "--print_completion":
        from crossdistill.cli.completion import completion

        print(completion("".join(arguments[1:2]), VERBS))
        return
    verb, *rest = arguments
    if verb not in VERBS:
        raise UserError(f"unknown verb '{verb}'{nearest(verb, VERBS)} (see: crossdistill --help)")
    importlib.import_module(VERBS[verb][0]).run(rest)


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {line}" for verb, (_, line) in VERBS.items()]
    return "\n".join(
        [
            "usage: crossdistill VERB [options]",
            "",
            "Distil any vision model into any other.",
            "",
            *lines,
            "",
            "`crossdistill VERB --help` lists a verb's options; `crossdistill --version` prints the version,",
            "`crossdistill --print_completion bash` (or zsh, fish) what completes the command in that shell.",
        ]
    )


def _show_warning(others: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any) -> None:
    """One line for what concerns the user, without the place in the code that noticed it."""
    if issubclass(category, UserCaution):
        print(f"warning: {message}", file=sys.stderr)
    else:
        others(message, category, *where)


def _refuse(message: str) -> int:
    print(f"crossdistill: {' '.join(message.split())}", file=sys.stderr)
    return 2
