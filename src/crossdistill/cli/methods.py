"""`crossdistill methods`: what there is, with references; of one method, its hyper-parameters."""

import inspect

from jsonargparse import Namespace

from crossdistill.cli.named_models import add_model_options, add_size_options, build_named, check_named
from crossdistill.cli.parsing import make_parser, parse
from crossdistill.errors import UserError
from crossdistill.methods import METHODS, hyperparameters, load_method
from crossdistill.methods.catalogue import Entry, read_entry

_REFUSED_WITHOUT_LABELS = "it learns from labels"


def run(arguments: list[str]) -> None:
    """Print the list, or one method's equations and hyper-parameters."""
    parser = make_parser("methods", "The distillation methods with their references.")
    parser.add_argument(
        "name",
        type=str | None,
        nargs="?",
        default=None,
        help="what to explain; also several (kd+fitnet)",
    )
    parser.add_argument(
        "--fits",
        nargs=2,
        metavar=("TEACHER", "STUDENT"),
        help="list those that fit this pair, and say why the others do not: a model's name, a weights file or a run "
        "folder each",
    )
    parser.add_argument("--no_labels", action="store_true", help="list those that learn without labels")
    parser.add_argument(
        "--num_classes", type=int | None, default=None, help="with --fits, classes of the data; default: the teacher's"
    )
    for role in ("teacher", "student"):
        add_model_options(parser, role)
    add_size_options(parser)
    options = parse(parser, arguments)
    if options.name is not None:
        if options.fits or options.no_labels:
            raise UserError("--fits and --no_labels choose from the list: leave the method's name out")
        _explain(options.name)
        return
    refusals = {name: _REFUSED_WITHOUT_LABELS for name in METHODS if options.no_labels and _needs_labels(name)}
    if options.fits:
        refusals |= _refusals(options, [name for name in METHODS if name not in refusals])
    _list([name for name in METHODS if name not in refusals])
    if options.fits:
        for name, reason in refusals.items():
            print(f"not {name}: {reason}")
    print("`crossdistill methods NAME` explains one and lists its hyper-parameters.")


def _needs_labels(name: str) -> bool:
    return bool(read_entry(METHODS[name]).needs.get("labels"))


def _refusals(options: Namespace, names: list[str]) -> dict[str, str]:
    """Why methods do not fit the pair, by name; those that do are left out."""
    teacher_name, student_name = options.fits
    for name in options.fits:
        check_named(name)

    from crossdistill.analysis.inspection import why_not
    from crossdistill.options import MethodOptions, height_and_width

    size = height_and_width(options.image_size, "image_size")
    teacher_size = height_and_width(options.teacher_image_size, "teacher_image_size") or size
    teacher = build_named(options, "teacher", teacher_name, options.num_classes, teacher_size)
    classes = options.num_classes or teacher.num_classes or None
    # As a run without labels has it: no classes but the teacher's.
    if options.no_labels:
        classes = teacher.num_classes
    student = build_named(options, "student", student_name, classes, size, options.stem_stride)
    found = {name: why_not(MethodOptions(name), teacher, student) for name in names}
    return {name: reason for name, reason in found.items() if reason}


def _list(names: list[str]) -> None:
    from rich import box
    from rich.table import Table

    from crossdistill.cli.tables import show

    table = Table(box=box.SIMPLE)
    table.add_column("method", no_wrap=True)
    for column in ("what it does", "learns from", "reference"):
        table.add_column(column, overflow="fold")
    for name in names:
        entry = read_entry(METHODS[name])
        table.add_row(name, entry.title, _needs(entry), entry.reference)
    show(table)


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
