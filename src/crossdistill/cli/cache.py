"""`crossdistill cache`: what the teacher of a run says, on disk before the run."""

import dataclasses

from crossdistill.cli.distill import check_models, hide_options, read_options, training_parser
from crossdistill.errors import UserError
from crossdistill.methods import check_method
from crossdistill.options import ReportingOptions


def run(arguments: list[str]) -> None:
    """Fill the teacher cache of a run that the arguments describe."""
    parser = training_parser(
        "cache",
        "Compute what the teacher says in a run and keep it for this run and others: give the options of the run, "
        "and the folder with --teacher_cache. It serves every method that follows --method; hyper-parameters are "
        "those of the first.",
    )
    hide_options(parser, [field.name for field in dataclasses.fields(ReportingOptions)] + ["teacher_cache_fill"])
    arguments, further = _split_methods(arguments)
    options, _ = read_options(parser, arguments)
    if not options.teacher_cache:
        raise UserError("--teacher_cache is missing: name the folder that is filled")
    check_models(options)
    from crossdistill.training.filling import fill_cache

    fill_cache(options, further)


def _split_methods(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments with one method, as a run has them, and the names of the others.

    Raises:
        UserError: there is no such method; tells the nearest.
    """
    if "--method" not in arguments:
        return arguments, []
    # Behind the flag and the first name.
    start = end = arguments.index("--method") + 2
    while end < len(arguments) and not arguments[end].startswith("-"):
        end += 1
    further = arguments[start:end]
    for name in further:
        check_method(name)
    return arguments[:start] + arguments[end:], further
