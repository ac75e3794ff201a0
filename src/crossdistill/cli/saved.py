"""What `evaluate` and `predict` share: a saved model, at the size and on the device that the options name."""

from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from crossdistill.cli.device import add_accelerator_option, find_device
from crossdistill.errors import UserError

if TYPE_CHECKING:
    from crossdistill.staged import StagedModel


def add_model_options(
    parser: ArgumentParser, model: str = "run folder, or a weights file that this program wrote"
) -> None:
    """The model, the size of its input and the device; `model` is what `--help` says of the first."""
    parser.add_argument("model", type=str, help=model)
    parser.add_argument(
        "--image_size",
        type=int | list[int] | None,
        default=None,
        help="side in pixels, or height and width; default: the model's own",
    )
    add_accelerator_option(parser)


def load(options: Namespace, *, without_head: bool = False) -> "StagedModel":
    """The model of the parsed options, in eval mode, on its device.

    Args:
        options: with those of `add_model_options`.
        without_head: take a model that has no classifier, too.

    Raises:
        UserError: no such file, a file that does not say what model it holds, a refused size, no such device.
    """
    from crossdistill.models import build_model
    from crossdistill.models.weights import weights_file
    from crossdistill.options import ModelOptions, height_and_width

    model = build_model(
        ModelOptions(),
        weights=str(weights_file(options.model)),
        num_classes=None,
        image_size=height_and_width(options.image_size, "image_size"),
    )
    if model.num_classes == 0 and not without_head:
        raise UserError(
            f"'{options.model}' holds a model without a classifier: give one that was trained on classes, or see what "
            "it represents with `crossdistill evaluate --probe knn`"
        )
    return model.eval().to(find_device(options.accelerator))


def load_teacher(options: Namespace) -> "StagedModel":
    """The teacher of the run folder that the parsed options name, in eval mode, on its device.

    Raises:
        UserError: it is no run folder, the run had no teacher, or its weights are not there any more.
    """
    from crossdistill.models import build_model
    from crossdistill.options import height_and_width
    from crossdistill.training.run_folder import RunFolder, load_recipe

    folder = RunFolder(options.model)
    if not folder.recipe.exists():
        raise UserError(f"--with_teacher: '{options.model}' is not a run folder, which says what its teacher was")
    recipe = load_recipe(folder.recipe)
    if not (recipe.teacher.name or recipe.teacher_weights not in ("none", "pretrained")):
        raise UserError(f"--with_teacher: the run in '{options.model}' had no teacher: leave it out")
    teacher = build_model(
        recipe.teacher,
        weights=recipe.teacher_weights,
        num_classes=None,
        image_size=height_and_width(recipe.teacher_image_size, "teacher_image_size"),
        stage_ends=recipe.teacher_stages,
        role="teacher",
    )
    return teacher.eval().to(find_device(options.accelerator))
