"""DIST: the student keeps the teacher's ranking of classes and of images, not its probabilities.

Huang et al.: Knowledge Distillation from A Stronger Teacher (NeurIPS 2022, arXiv 2205.10536). A student far behind its
teacher, or of another kind, cannot match its probabilities; what it can keep is their order. Pearson's correlation does
not see the mean and the scale of what it compares.

With Y = softmax(Z / T), (B, K), and rho Pearson's correlation,

    L_inter = 1 - mean_b rho(Y^S_b, Y^T_b)      an image's classes with each other                        (1)
    L_intra = 1 - mean_k rho(Y^S_k, Y^T_k)      a class's images with each other                          (2)
    L = w_label CE(s, y) + beta L_inter + gamma L_intra, the last two times T^2                           (3)

(2) is a correlation over the batch, here of all processes: the smaller the batch, the noisier. A column that does not
vary, such as that of a class that no image resembles, has correlation 0, as in the authors' code.
"""

from typing import ClassVar

from torch import Tensor

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import check_range
from crossdistill.modules.gather import gather_batches
from crossdistill.modules.precision import in_float32
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel

# The authors'; it is added to the product of the norms.
_EPSILON = 1e-8


@in_float32
def dist_loss(student_logits: Tensor, teacher_logits: Tensor, beta: float, gamma: float, temperature: float) -> Tensor:
    """Equation (3) without the label term.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
        beta: weight of the relations between classes, (1).
        gamma: weight of the relations within classes, (2).
        temperature: T, above 0.
    """
    student = (student_logits / temperature).softmax(dim=1)
    teacher = (teacher_logits / temperature).softmax(dim=1)
    between_classes = 1 - _correlation(student, teacher).mean()
    within_classes = 1 - _correlation(student.mT, teacher.mT).mean()
    return (beta * between_classes + gamma * within_classes) * temperature**2


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's, of each row of one with that of the other."""
    one, other = one - one.mean(dim=1, keepdim=True), other - other.mean(dim=1, keepdim=True)
    return (one * other).sum(dim=1) / (one.norm(dim=1) * other.norm(dim=1) + _EPSILON)


class DIST(Distiller):
    """Distillation from a stronger teacher: `label_weight * CE(s, y) + dist_loss(s, t, beta, gamma, temperature)`.

    Args:
        student: the model that is trained.
        teacher: the model that is learnt from.
        beta: weight of the relations between an image's classes; the authors' 2 on ImageNet and CIFAR-100. OFA-KD has 1
            for its unlike pairs.
        gamma: weight of the relations between a class's images; as `beta`.
        temperature: T; the authors' 1 on ImageNet, 4 on CIFAR-100. OFA-KD has 1.
        label_weight: weight of the cross-entropy with the labels; the authors' 1.
    """

    needs = Needs(teacher={"logits"}, student={"logits"})
    ranges: ClassVar = {
        "beta": Range(0.2, 20, log=True),
        "gamma": Range(0.2, 20, log=True),
        "temperature": Range(1, 4, log=True),
    }

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        beta: float = 2.0,
        gamma: float = 2.0,
        temperature: float = 1.0,
        label_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        check_range("dist", above=0, temperature=temperature)
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        ours, theirs = gather_batches(student.logits), gather_batches(teacher.logits)
        return {"logits": dist_loss(ours, theirs, self.beta, self.gamma, self.temperature)}
