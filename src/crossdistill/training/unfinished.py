"""The student of a run that was stopped, as its newest checkpoint has it."""

from dataclasses import replace

from crossdistill.data import ImageData
from crossdistill.errors import UserError
from crossdistill.options import PairOptions, TrainingOptions
from crossdistill.staged import StagedModel
from crossdistill.training.checkpoint import latest_checkpoint, read_checkpoint
from crossdistill.training.ingredients import build_student
from crossdistill.training.run_folder import RunFolder

_STUDENT = "student."


def load_unfinished(folder: RunFolder, recipe: TrainingOptions, data: ImageData) -> tuple[StagedModel, str]:
    """Build the student of a run and give it the weights of the newest checkpoint: of the EMA where one runs.

    Args:
        folder: of the run.
        recipe: of the run.
        data: that it is trained on, with labels; its classes and the size of its images count.

    Returns:
        The model, in eval mode, and which weights it has, in words ("of step 120 (moving average)").

    Raises:
        UserError: there is no checkpoint, it is damaged, or the run's recipe cannot be followed any more.
    """
    checkpoint = latest_checkpoint(folder.checkpoints)
    if checkpoint is None:
        raise UserError(f"the run in {folder.path} has no checkpoint: go on with --resume true")
    pair = recipe.part(PairOptions)
    if pair.student_weights == "pretrained":
        # They are replaced anyway.
        pair = replace(pair, student_weights="none")
    student = build_student(pair, data, len(data.classes))
    shared = read_checkpoint(checkpoint, rank=0)["shared"]
    averaged = bool(shared["ema"])
    state = shared["ema"] or {
        name.removeprefix(_STUDENT): tensor for name, tensor in shared["distiller"].items() if name.startswith(_STUDENT)
    }
    try:
        student.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"the checkpoint {checkpoint} is not of the student that the recipe describes for {data.name}: give the "
            "--data that it is trained on"
        ) from error
    student.card = replace(student.card, classes=data.classes, head_trained=True, weights=str(checkpoint))
    return student.eval(), f"of step {shared['step']}" + (" (moving average)" if averaged else "")
