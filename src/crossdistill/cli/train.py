"""`crossdistill train`: a run without a teacher, under its everyday name."""

import dataclasses

from crossdistill.cli.distill import check_models, hide_teacher_options, read_options, training_parser
from crossdistill.errors import UserError
from crossdistill.options import MethodOptions, TrainingOptions


def run(arguments: list[str]) -> None:
    """Train a model alone.

    The options of a teacher are refused unless they say nothing, as in the recipe of a run that had none.
    """
    parser = training_parser("train", "Train a model alone, without a teacher.")
    hide_teacher_options(parser)
    options, given = read_options(parser, arguments)
    alone = TrainingOptions(method=MethodOptions(name="scratch"))
    if "method" not in given:
        options.method = alone.method
    for field in dataclasses.fields(TrainingOptions):
        if field.metadata.get("teacher_only") and getattr(options, field.name) != getattr(alone, field.name):
            raise UserError(f"train takes no --{field.name}, it trains a model alone; use: crossdistill distill")
    check_models(options)
    from crossdistill.training import distill

    distill(options, given=given)
