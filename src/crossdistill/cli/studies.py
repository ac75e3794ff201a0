"""`crossdistill studies`: the studies that ship with the package; of one, its rows and what it costs here."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from crossdistill.cli.parsing import make_parser, parse

if TYPE_CHECKING:
    from crossdistill.study.estimate import Estimate


def run(arguments: list[str]) -> None:
    """Print the list, or one study with an estimate of its time."""
    parser = make_parser("studies", "The studies that ship with the package.")
    parser.add_argument(
        "name", type=str | None, nargs="?", default=None, help="a study, or a YAML file, to explain and to time"
    )
    parser.add_argument("--data", type=str | None, default=None, help="the data set, where the study's lies elsewhere")
    options = parse(parser, arguments)
    if options.name is None:
        _list()
    else:
        _explain(options.name, options.data)


def show_estimates(estimates: "Iterable[Estimate]", seeds: int) -> None:
    """Print a table of what each row takes, and the sum over all seeds."""
    from rich import box
    from rich.table import Table

    from crossdistill.cli.tables import show

    table = Table(box=box.SIMPLE)
    for column in ("pair", "row", "method", "steps", "ms a step", "a run"):
        table.add_column(column, overflow="fold")
    total = 0.0
    for one in estimates:
        if one.refusal:
            table.add_row(one.pair, one.row, one.method, "-", "-", one.refusal)
            continue
        total += one.seconds * seeds
        table.add_row(
            one.pair, one.row, one.method, str(one.steps), f"{1000 * one.step_seconds:.0f}", _told(one.seconds)
        )
    show(table)
    print(
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}: about {_told(total)} of training on this machine, one run after "
        "another; loading and evaluation come on top"
    )


def _told(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 10:
        return f"{minutes:.1f} min"
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 60 / 24:.0f} days"


def _list() -> None:
    from rich import box
    from rich.table import Table

    from crossdistill.cli.tables import show
    from crossdistill.study.files import read_study, shipped_studies

    table = Table(box=box.SIMPLE)
    for column in ("study", "question", "pairs", "rows", "seeds", "runs"):
        table.add_column(column, overflow="fold")
    for name in shipped_studies():
        study = read_study(name)
        rows = sum(len(study.rows_of(pair)) for pair in study.pairs)
        counts = (len(study.pairs), rows, len(study.seeds), rows * len(study.seeds))
        table.add_row(name, study.question, *map(str, counts))
    show(table)
    print("`crossdistill studies NAME` lists its rows and measures their cost; `crossdistill compare NAME` runs it.")


def _explain(name: str, data: str | None) -> None:
    from crossdistill.study.estimate import estimate
    from crossdistill.study.files import read_study

    study = read_study(name)
    if data is not None:
        study = study.override({"data": data})
    print(study.question)
    show_estimates(estimate(study), len(study.seeds))
