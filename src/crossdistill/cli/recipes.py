"""`crossdistill recipes`: the published experiments that ship with the package, their numbers, doubts and cost."""

from typing import TYPE_CHECKING

from jsonargparse import Namespace

from crossdistill.cli.device import add_accelerator_option
from crossdistill.cli.parsing import make_parser, parse
from crossdistill.errors import UserError, nearest
from crossdistill.options.values import PositiveInt

if TYPE_CHECKING:
    from crossdistill.study import Study

# Images of a timed step: enough that their number decides the time, few enough that any pair fits into memory.
_BATCH_ON_CPU = 8
_BATCH_ELSEWHERE = 64


def run(arguments: list[str]) -> None:
    """Print the list, one experiment, or the recipe of one of its runs."""
    parser = make_parser("recipes", "The published experiments that ship with the package.")
    parser.add_argument("name", type=str | None, nargs="?", default=None, help="an experiment to explain")
    parser.add_argument("pair", type=str | None, nargs="?", default=None, help="with a row: print that run's recipe")
    parser.add_argument("row", type=str | None, nargs="?", default=None, help="a row of the pair")
    parser.add_argument("--estimate", type=bool, nargs="?", const=True, default=False, help="time some steps of each")
    parser.add_argument("--pairs", type=str, nargs="+", help="of these pairs only")
    parser.add_argument("--rows", type=str, nargs="+", help="of these rows only")
    parser.add_argument("--data", type=str | None, default=None, help="a data set to take the number of images from")
    parser.add_argument(
        "--estimate_batch",
        type=PositiveInt | None,
        default=None,
        help="images of a timed step at most; "
        f"default: {_BATCH_ON_CPU} on a CPU, {_BATCH_ELSEWHERE} elsewhere; the time of a whole step is in proportion",
    )
    add_accelerator_option(parser, "where the steps are timed")
    options = parse(parser, arguments)
    if options.name is None:
        _list()
        return
    from crossdistill.study.files import read_study

    study = read_study(options.name)
    if options.pair is not None:
        _print_recipe(study, options.name, options.pair, options.row)
        return
    study = _part(study, options.pairs, options.rows)
    if options.estimate:
        _estimate(study, options)
    else:
        _explain(study)


def _list() -> None:
    from rich import box
    from rich.table import Table

    from crossdistill.cli.tables import show
    from crossdistill.study.files import read_study, shipped_recipes

    table = Table(box=box.SIMPLE)
    for column in ("recipe", "what", "pairs", "runs", "published top-1 %", "source"):
        table.add_column(column, overflow="fold")
    for name in shipped_recipes():
        study = read_study(name)
        runs = sum(len(study.rows_of(pair)) for pair in study.pairs)
        published = study.published
        numbers = published.range if published is not None else None
        told = "-" if numbers is None else "{:.2f} to {:.2f}".format(*numbers)
        source = published.source if published is not None else ""
        table.add_row(name, study.question, str(len(study.pairs)), str(runs), told, source)
    show(table)
    print(
        "`crossdistill recipes NAME` shows one with its doubts, with --estimate its cost here; "
        "`crossdistill recipes NAME PAIR ROW` prints the recipe of a run; `crossdistill compare NAME` runs it."
    )


def _part(study: "Study", pairs: list[str] | None, rows: list[str] | None) -> "Study":
    """A study with some of its pairs and rows."""
    import dataclasses

    planned = [(pair, row.name) for pair in study.pairs for row in study.rows_of(pair)]
    for kind, names, known in (("pairs", pairs, study.pairs), ("rows", rows, {row for _, row in planned})):
        for name in names or ():
            if name not in known:
                raise UserError(f"--{kind}: there is no '{name}'{nearest(name, known)}; there are {', '.join(known)}")
    return dataclasses.replace(
        study,
        pairs={name: pair for name, pair in study.pairs.items() if not pairs or name in pairs},
        rows={name: row for name, row in study.rows.items() if not rows or name in rows},
    )


def _explain(study: "Study") -> None:
    from rich import box
    from rich.table import Table

    from crossdistill.cli.tables import show
    from crossdistill.study.published import Published

    published = study.published or Published()
    table = Table(box=box.SIMPLE)
    for column in ("pair", "teacher", *study.rows):
        table.add_column(column, overflow="fold")
    for pair in study.pairs:
        there = {row.name for row in study.rows_of(pair)}
        teacher = published.teachers.get(pair)
        cells = [_number(published.of(pair, row)) if row in there else "" for row in study.rows]
        table.add_row(pair, _number(teacher), *cells)
    print(study.question)
    print(f"source: {published.source}")
    print("published top-1 in percent; -: a run without a published number")
    show(table)
    for doubt in published.doubts:
        print(f"- {doubt}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _estimate(study: "Study", options: Namespace) -> None:
    from crossdistill.cli.device import find_device
    from crossdistill.cli.studies import show_estimates
    from crossdistill.study.estimate import estimate, nominal_data

    published = study.published
    if options.data is not None:
        study, data = study.override({"data": options.data}), None
    elif published is not None and published.images and published.classes:
        data = nominal_data(published.images, published.classes)
    else:
        raise UserError("this study does not say how large its data set is: name one with --data")
    device = find_device(options.accelerator)
    batch = options.estimate_batch or (_BATCH_ON_CPU if device.type == "cpu" else _BATCH_ELSEWHERE)
    show_estimates(
        estimate(study, data=data, weights=False, largest_batch=batch, device=device), max(1, len(study.seeds))
    )
    print(f"timed on {device} with {batch} images a step; the time of a whole step is in proportion")


def _print_recipe(study: "Study", name: str, pair: str, row_name: str | None) -> None:
    """The options of one run, as `distill --config` takes them."""
    import yaml

    if pair not in study.pairs:
        raise UserError(f"{name} has no pair '{pair}'{nearest(pair, study.pairs)}; there are {', '.join(study.pairs)}")
    rows = {row.name: row for row in study.rows_of(pair)}
    if row_name not in rows:
        said = f"{name} has no row '{row_name}' for {pair}{nearest(row_name, rows)}" if row_name else "name a row too"
        raise UserError(f"{said}; there are {', '.join(rows)}")
    number = study.published.of(pair, row_name) if study.published is not None else None
    told = "" if number is None else f", published top-1 {number:.2f} %"
    print(f"# {name}: {pair}, {row_name}{told}")
    print(yaml.safe_dump(study.recipe_of(pair, rows[row_name]), sort_keys=False, allow_unicode=True), end="")
