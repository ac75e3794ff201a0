"""`crossdistill compare`: methods x seeds under one recipe, and whether what they bring is more than noise."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from crossdistill.cli.distill import check_models, training_parser
from crossdistill.cli.parsing import parse
from crossdistill.errors import UserError
from crossdistill.options.values import NonNegativeFloat, PositiveInt, plain

if TYPE_CHECKING:
    from crossdistill.study import Comparison, Study
    from crossdistill.study.engines import Engine

_OWN = ("methods", "seeds", "metric", "controls", "budget", "tune_trials", "tune_search", "share_teacher")
_CALL = ("study", "pairs", "rows", "jobs", "cluster", "cluster_cpus", "cluster_gpus", "rerun_damaged", "output")
# What a study sets for each run, and what says it here.
_ELSEWHERE = {
    "seed": "--seeds",
    "data_seed": "--seeds",
    "method": "--methods",
    "resume": "the same command",
    "teacher_cache": "--share_teacher true",
    "teacher_cache_fill": "--share_teacher true",
}


def run(arguments: list[str]) -> None:
    """Make the runs that are missing, and print what came out of all."""
    parsed = parse(_parser(), arguments, defaults=False).as_dict()
    options = {name: plain(value) for name, value in parsed.items() if name != "config"}
    study = _study(options)
    every = [study.options(pair, row) for pair in study.pairs for row in study.rows_of(pair)]
    # Names are read from timm's files, so each but once.
    for one in {(run.student.name, run.teacher.name): run for run in every}.values():
        check_models(one)

    from rich.console import Console

    from crossdistill.report import LivePage
    from crossdistill.study import compare

    output = options.get("output") or ""
    with LivePage(output) as page:
        comparison = compare(
            study,
            output,
            jobs=options.get("jobs", 1),
            pairs=options.get("pairs"),
            rows=options.get("rows"),
            rerun_damaged=options.get("rerun_damaged", False),
            console=Console(),
            engine=_engine(options),
            after_run=page.update,
        )
    report([(output, comparison)])


def report(comparisons: "list[tuple[str, Comparison]]") -> None:
    """Print the tables of comparisons and write their pages; exit with 3 where a run came to no end."""
    from crossdistill.cli.tables import show
    from crossdistill.report import write_report
    from crossdistill.study.tables import lines_below, table

    for folder, comparison in comparisons:
        for pair in comparison.results.pairs:
            show(table(comparison.results, pair))
        for line in lines_below(comparison.results):
            print(line)
        print(f"as a page: {write_report(folder)}")
        print(f"more of it: {folder}/results.md; each run's student, metrics and recipe: its folder in {folder}")
    failed = [outcome for _, comparison in comparisons for outcome in comparison.failed]
    for outcome in failed:
        print(f"crossdistill: {outcome.run.name} failed: {outcome.error}", file=sys.stderr)
    if failed:
        sys.exit(3)


def _engine(options: dict[str, Any]) -> "Engine | None":
    """The cluster, where one is asked for."""
    if not options.get("cluster"):
        for name in ("cluster_cpus", "cluster_gpus"):
            if name in options:
                raise UserError(f"--{name} belongs to --cluster: say which")
        return None
    if "jobs" in options:
        raise UserError("--jobs is for this machine alone: a --cluster starts as many runs as it has room for")
    from crossdistill.study.cluster import Cluster

    return Cluster(options["cluster"], options.get("cluster_cpus", 1), options.get("cluster_gpus", 0))


def _parser() -> ArgumentParser:
    parser = training_parser("compare", "Methods x seeds under one recipe, compared with statistics.")
    parser.usage = "crossdistill compare [STUDY] [options]"
    parser.add_argument("study", type=str | None, nargs="?", help="a YAML file, or a name of `crossdistill studies`")
    group = parser.add_argument_group("Study", "Options of a run, below, overrule those of the study.")
    group.add_argument("--methods", type=str, nargs="+", help="rows of a study without a file")
    group.add_argument("--seeds", type=int, nargs="+", help="how many, or several: which")
    group.add_argument("--metric", type=str, help="top1, top5; without labels teacher_cosine or knn_top1")
    group.add_argument(
        "--controls",
        type=str,
        nargs="+",
        help="further rows: same-time, label-smoothing, random-teacher, shuffled-teacher, self-teacher",
    )
    group.add_argument("--budget", type=float, nargs="+", help="factors on the steps, such as 1 3 10: a row for each")
    group.add_argument(
        "--tune_trials",
        type=PositiveInt,
        help="trials of the hyper-parameters of every row, on held-out training images, before its seeds run",
    )
    group.add_argument(
        "--tune_search", type=str, nargs="+", help="what is searched; default: all that a method has ranges for"
    )
    group.add_argument(
        "--share_teacher",
        type=bool,
        help="compute once what a teacher says of a seed's images, for all rows that read its logits or pooled vectors",
    )
    group.add_argument("--pairs", type=str, nargs="+", help="make the runs of these pairs only")
    group.add_argument("--rows", type=str, nargs="+", help="make the runs of these rows only")
    group.add_argument("--jobs", type=PositiveInt, help="runs at once on this machine; default: 1")
    group.add_argument(
        "--cluster",
        type=str,
        help="run on a Ray cluster: auto (the one of this machine), local, or ray://HOST:10001",
    )
    group.add_argument("--cluster_cpus", type=PositiveInt, help="cores of a run there; default: 1")
    group.add_argument("--cluster_gpus", type=NonNegativeFloat, help="GPUs of a run there, also parts; default: 0")
    group.add_argument(
        "--rerun_damaged", type=bool, nargs="?", const=True, help="make runs again whose files cannot be read"
    )
    for option, action in parser._option_string_actions.items():
        if option.removeprefix("--").partition(".")[0] in (*_ELSEWHERE, "print_config"):
            action.help = argparse.SUPPRESS
        elif option == "--output":
            action.help = "the study's folder; the same command goes on in it"
        elif option == "--config":
            action.help = "a YAML recipe for all runs; flags overrule it"
    return parser


def _study(options: dict[str, Any]) -> "Study":
    """The study that the arguments name, with what they change."""
    from crossdistill.study.files import read_study
    from crossdistill.study.layers import flatten
    from crossdistill.study.study import Study

    for name, instead in _ELSEWHERE.items():
        if name in options:
            raise UserError(f"compare takes no --{name}: use {instead}")
    recipe = {name: value for name, value in options.items() if name not in (*_OWN, *_CALL)}
    if options.get("study"):
        if options.get("methods"):
            raise UserError("--methods makes a study without a file: use --rows to choose rows of a study")
        study = read_study(options["study"])
    elif options.get("methods"):
        study = Study.from_dict({"rows": options["methods"], "seeds": 1}, "--methods")
    else:
        raise UserError("name a study (see: crossdistill studies), or give --methods")
    values = study.to_dict() | {name: options[name] for name in _OWN[1:] if options.get(name) is not None}
    if options.get("seeds"):
        seeds = options["seeds"]
        values["seeds"] = seeds[0] if len(seeds) == 1 else seeds
    return Study.from_dict(values, options.get("study") or "compare").override(flatten(recipe, "compare"))
