"""`crossdistill tune`: hyper-parameters, chosen on held-out training images."""

from typing import Any

import yaml

from crossdistill.cli.distill import check_models, read_options, training_parser
from crossdistill.errors import UserError
from crossdistill.options.values import NonNegativeFloat, PositiveFloat, PositiveInt
from crossdistill.study.tune import HELD_OUT, STORAGE_WAIT, tune


def run(arguments: list[str]) -> None:
    """Search as the arguments say."""
    parser = training_parser("tune", "Choose hyper-parameters on held-out training images.")
    parser.set_defaults(held_out=HELD_OUT)
    parser.add_argument(
        "--trials",
        type=PositiveInt | None,
        default=None,
        help="trials of the whole search, over all workers and calls; with neither trials nor minutes: 20",
    )
    parser.add_argument(
        "--minutes", type=PositiveFloat | None, default=None, help="begin no further trial after so many minutes"
    )
    parser.add_argument(
        "--search",
        nargs="+",
        type=str,
        metavar="NAME",
        help="what is searched; default: all that `crossdistill methods METHOD` has a range for, and the optimiser's "
        "learning_rate and weight_decay",
    )
    parser.add_argument(
        "--storage",
        type=str | None,
        default=None,
        help="postgresql://user@host/database, which several workers share; default: a SQLite file in the output",
    )
    parser.add_argument(
        "--storage_wait",
        type=NonNegativeFloat,
        default=STORAGE_WAIT,
        help="seconds to wait for a database that does not answer",
    )
    parser.add_argument(
        "--study", type=str | None, default=None, help="name of the search in the storage; default: the output's"
    )
    options, given = read_options(parser, arguments)
    # A run's recipe says 0 too, and means that it is no search.
    if given.get("held_out") == 0 and any(argument.startswith("--held_out") for argument in arguments):
        raise UserError("--held_out 0: tune chooses on held-out training images, give a share such as 0.2")
    check_models(options)
    names = ("trials", "minutes", "storage", "storage_wait", "study")
    own = {name: given[name] for name in names if given.get(name) is not None}
    tune(options, output=options.output, search=_names(given.get("search")), **own)


def _names(given: list[str] | None) -> list[str] | None:
    """Names as the command line has them, apart or with commas, or as a list of a recipe."""
    if given is None:
        return None
    names: list[Any] = []
    for part in given:
        names += yaml.safe_load(part) if part.startswith("[") else part.split(",")
    return [str(name).strip() for name in names]
