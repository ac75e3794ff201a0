"""`crossdistill methods`: what there is, with references; of one method, its hyper-parameters."""

import inspect

from crossdistill.cli.parsing import make_parser, parse
from crossdistill.methods import METHODS, hyperparameters, load_method
from crossdistill.methods.catalogue import Entry, read_entry


def run(arguments: list[str]) -> None:
    """Print the list, or one method's equations and hyper-parameters."""
    parser = make_parser("methods", "The distillation methods with their references.")
    parser.add_argument(
        "name", type=str | None, nargs="?", default=None, help="a method, several such as kd+fitnet, or the dotted path of a Distiller, to explain"
    )
    options = parse(parser, arguments)
    if options.name is None:
        _list()
    else:
        _explain(options.name)


def _list() -> None:
    from rich import box
    from rich.table import Table

    from crossdistill.cli.tables import show

    table = Table(box=box.SIMPLE)
    table.add_column("method", no_wrap=True)
    for column in ("what it does", "learns from", "reference"):
        table.add_column(column, overflow="fold")
    for name, path in METHODS.items():
        entry = read_entry(path)
        table.add_row(name, entry.title, _needs(entry), entry.reference)
    show(table)
    print("`crossdistill methods NAME` explains one and lists its hyper-parameters.")


def _needs(entry: Entry) -> str:
    """What it reads of the teacher, and the labels where it cannot do without."""
    words = [word.replace("_", " ") for word in sorted(entry.needs.get("teacher") or ())]  # type: ignore[arg-type]
    return ", ".join(words + (["labels"] if entry.needs.get("labels") else []))


def _explain(name: str) -> None:
    from docstring_parser import parse as parse_docstring
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from crossdistill.cli.tables import show

    method = load_method(name)
    module = inspect.getmodule(method)
    descriptions = {entry.arg_name: entry.description for entry in parse_docstring(inspect.getdoc(method) or "").params}
    # Not through rich, which would wrap the equations.
    print(inspect.getdoc(module) or (inspect.getdoc(method) or "").partition("\n\n")[0])
    table = Table(box=box.SIMPLE)
    table.add_column("hyper-parameter", no_wrap=True)
    columns = ("type", "default", "tune searches", "meaning") if method.ranges else ("type", "default", "meaning")
    for column in columns:
        table.add_column(column, overflow="fold")
    for known, parameter in hyperparameters(method).items():
        cells = (
            known,
            inspect.formatannotation(parameter.annotation),
            "(required)" if parameter.default is inspect.Parameter.empty else repr(parameter.default),
            *([str(method.ranges.get(known, ""))] if method.ranges else []),
            " ".join((descriptions.get(known) or "").split()),
        )
        # As plain text: rich would take the brackets of list[int] for markup.
        table.add_row(*map(Text, cells))
    if table.row_count:
        show(table)
        print(f"Set one with --method {name} --method.kwargs.NAME=VALUE.")
    else:
        print("\nIt has no hyper-parameters.")
