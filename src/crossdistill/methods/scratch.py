"""Training without a teacher: the baseline that every method must beat, and how teachers are made."""

from torch import Tensor

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.staged import Outputs


class Scratch(Distiller):
    """The student alone, on the labels.

    Args:
        student: the model that is trained.
        teacher: not looked at.
        label_weight: weight of the cross-entropy with the labels.
    """

    needs = Needs(labels=True)
    # No ranges: the one weight only scales the loss, which is the learning rate's part.

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {}
