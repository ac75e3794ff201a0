"""A method whose first step is the end of its process, as too little memory would be."""

import os

from torch import Tensor

from crossdistill.data import Batch
from crossdistill.methods.scratch import Scratch
from crossdistill.staged import Outputs


class Dying(Scratch):
    """Training that dies.

    Args:
        student: the model that is trained.
        teacher: not looked at.
        label_weight: as in scratch.
    """

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        os._exit(7)
