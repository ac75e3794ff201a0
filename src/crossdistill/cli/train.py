"""`crossdistill train`: a run without a teacher, under its everyday name."""

import dataclasses

from crossdistill.cli.distill import check_models, hide_options, read_options, training_parser
from crossdistill.errors import UserError
from crossdistill.options import MethodOptions, TrainingOptions


def run(arguments: list[str]) -> None:
    """Train a model alone.

    The options of a teacher are refused unless they say nothing, as in the recipe of a run that had none.
    """
    parser = training_parser("train", "Train a model alone, without a teacher.")
    teacher_only = [field.name for field in dataclasses.fields(TrainingOptions) if field.metadata.get("teacher_only")]
    hide_options(parser, teacher_only)
    options, given = read_options(parser, arguments)
    alone = TrainingOptions(method=MethodOptions(name="scratch"))
    if "method" not in given:
        options.method = alone.method
    for name in teacher_only:
        if getattr(options, name) != getattr(alone, name):
            raise UserError(f"train takes no --{name}, it trains a model alone; use: crossdistill distill")
    check_models(options)
    from crossdistill.training import distill

    distill(options, given=given)
