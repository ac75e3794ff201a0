"""`crossdistill quickstart`: the whole story on a built-in data set."""

from crossdistill.cli.compare import report
from crossdistill.cli.parsing import make_parser, parse
from crossdistill.errors import UserError, nearest
from crossdistill.methods import METHODS

_DEFAULT = "scratch,kd,pat"


def run(arguments: list[str]) -> None:
    """Train a small student alone and with a teacher, and compare."""
    parser = make_parser(
        "quickstart",
        "Train a small CNN alone and with a Vision Transformer as its teacher, on built-in images, and compare.",
    )
    parser.add_argument(
        "--methods",
        type=str,
        default=_DEFAULT,
        help="comma-separated methods, or `all`; it first says how long they take; cskd has a pair of its own, a CNN "
        "that teaches a Vision Transformer",
    )
    parser.add_argument("--output", type=str, default="runs/quickstart", help="where each method's run folder is made")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    options = parse(parser, arguments)
    methods = list(METHODS) if options.methods == "all" else [name.strip() for name in options.methods.split(",")]
    for name in methods:
        if name not in METHODS:
            raise UserError(f"--methods: unknown method '{name}'{nearest(name, METHODS)} (see: crossdistill methods)")

    from crossdistill.study import quickstart

    report(quickstart.run(methods, options.output, options.seed))
