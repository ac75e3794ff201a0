"""A control of KD: the teacher's answers, each for another image."""

from crossdistill.data import Batch
from crossdistill.methods.kd import KD
from crossdistill.staged import Outputs


class ShuffledKD(KD):
    """KD whose teacher's answers are shuffled over the images of a batch.

    An image gets the answer to the image before it in the batch. Batches are drawn in random order, so that is a random
    other image, and the answers as a whole stay what they were. What KD still gains is not what the teacher says of an
    image, but what soft targets do by themselves.

    Args:
        student: the model that is trained.
        teacher: the model that is learnt from.
        temperature: as KD's.
        label_weight: as KD's.
        teacher_weight: as KD's.
    """

    def run_models(self, batch: Batch, teacher_outputs: Outputs | None) -> tuple[Outputs, Outputs]:
        student, teacher = super().run_models(batch, teacher_outputs)
        return student, Outputs(logits=teacher.logits.roll(1, dims=0))
