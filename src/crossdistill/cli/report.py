"""`crossdistill report`: one HTML page about a run or a study."""

from crossdistill.cli.parsing import make_parser, parse


def run(arguments: list[str]) -> None:
    """Write the page, and say where it is."""
    parser = make_parser("report", "One self-contained HTML page about a run or a study.")
    parser.add_argument("folder", type=str, help="of a run, or of a study (what `compare` wrote)")
    parser.add_argument("--output", type=str | None, default=None, help="the page; default: report.html in the folder")
    parser.add_argument(
        "--baseline",
        type=str | None,
        default=None,
        help="another run on the same images, such as scratch with the same seed, to compare a run with",
    )
    parser.add_argument(
        "--images",
        type=bool,
        default=True,
        help="show validation images that changed; opens the data that the recipe names, as `evaluate` does",
    )
    options = parse(parser, arguments)

    from crossdistill.report import write_report

    print(write_report(options.folder, options.output, baseline=options.baseline, images=options.images))
