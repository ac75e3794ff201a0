"""`crossdistill studies`: the studies that ship with the package; of one, its rows and what it costs here."""

from crossdistill.cli.parsing import make_parser, parse


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
    from rich import box
    from rich.table import Table

    from crossdistill.cli.tables import show
    from crossdistill.study.estimate import estimate
    from crossdistill.study.files import read_study

    study = read_study(name)
    if data is not None:
        study = study.override({"data": data})
    print(study.question)
    table = Table(box=box.SIMPLE)
    for column in ("pair", "row", "method", "steps", "ms a step", "a run"):
        table.add_column(column, overflow="fold")
    total = 0.0
    for one in estimate(study):
        if one.refusal:
            table.add_row(one.pair, one.row, one.method, "-", "-", one.refusal)
            continue
        total += one.seconds * len(study.seeds)
        times = (f"{1000 * one.step_seconds:.0f}", f"{one.seconds / 60:.1f} min")
        table.add_row(one.pair, one.row, one.method, str(one.steps), *times)
    show(table)
    print(
        f"{len(study.seeds)} seeds: about {total / 60:.0f} min of training on this machine, one run after another; "
        "loading and evaluation come on top"
    )
