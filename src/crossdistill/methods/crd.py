"""CRD: contrastive representation distillation, one image in both embeddings against many others from a memory.

Tian, Krishnan, Isola: Contrastive Representation Distillation (ICLR 2020, arXiv 1910.10699). The student's vector of an
image must be told from the teacher's vectors of K other images, and the teacher's from the student's: a bound on the
mutual information of the two representations grows. K is far larger than a batch, so the vectors of all N training
images are remembered, one bank for each model.

With v = g(x) / |g(x)|, g a learned linear layer for each model, u the remembered vectors of the other model,

    h(v, u) = e(v, u) / (e(v, u) + K Z),   e(v, u) = exp(<v, u> / tau)                                    (1)
    L(v) = -log h(v_i, u_i) - sum_k log(1 - h(v_i, u_k)),   K images k drawn for each i                   (2)
    L = w_label CE(s, y) + w_CRD mean_i (L(v^S_i) + L(v^T_i))                                             (3)
    u_i <- m u_i + (1 - m) v_i, back to norm 1, behind each step                                          (4)

Z is the mean of e over the first batch and stays: with it, e / (N Z) is a distribution over the images. The paper's (1)
has K / N in place of K Z, without which its constant is off by the unknown scale of e; its results are from code with
Z, which this file follows. (1) is the logistic function of <v, u> / tau - log(K Z), and is computed so.

The images k are of other classes where there are labels, as in the authors' runs. They look classes up in the data set,
and draw each image once; here the class of an image is remembered when the image is first seen, and images are drawn
with replacement. Where K is N or more, no image is drawn: the mean over all others takes the draws' place, which has
their expectation and no noise.
"""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import UserError, check_range
from crossdistill.modules.gather import gather_batches
from crossdistill.modules.precision import in_float32
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel

_UNKNOWN = -1


@in_float32
def crd_loss(
    positives: Tensor, negatives: Tensor, shares: Tensor, log_normalizer: Tensor, num_negatives: int
) -> Tensor:
    """Equation (2), mean over images.

    Args:
        positives: (B,), <v_i, u_i> / tau.
        negatives: (B, M), <v_i, u_k> / tau.
        shares: (B, M) or (1, 1), which share of the K draws each of them is; rows sum to 1.
        log_normalizer: log Z, a scalar.
        num_negatives: K.
    """
    shift = log_normalizer + math.log(num_negatives)
    of_others = (shares * F.logsigmoid(shift - negatives)).sum(dim=1)
    return -(F.logsigmoid(positives - shift) + num_negatives * of_others).mean()


@in_float32
def log_mean_similarity(positives: Tensor, negatives: Tensor, shares: Tensor, num_negatives: int) -> Tensor:
    """log Z, a scalar: of the mean of e over the positives and K draws of each image; arguments as of `crd_loss`."""
    of_others = negatives + shares.log() + math.log(num_negatives)
    everything = torch.cat([positives[:, None], of_others], dim=1)
    return everything.logsumexp(dim=(0, 1)) - math.log((num_negatives + 1) * len(positives))


@in_float32
def _similarities(embedding: Tensor, bank: Tensor, temperature: float) -> Tensor:
    """<v, u> / tau of each image with all that are remembered, (B, N)."""
    return F.normalize(embedding, dim=1) @ bank.mT / temperature


class CRD(Distiller):
    """Contrastive representation distillation of the pooled vectors, equation (3).

    The banks are buffers, 8 N `width` bytes in all, on every device and in every checkpoint: 51 MB for 50,000 images,
    1.3 GB for ImageNet. A step compares each image with all N, so it takes memory for a few times B N numbers. They are
    kept by the images' indices, and what all processes have seen goes into the banks of each.

    Args:
        student: the model that is trained, of any architecture.
        teacher: the model that is learnt from, of any architecture, with or without a head.
        width: of v; the authors' 128.
        num_negatives: K; the authors' 16384.
        temperature: tau; the authors' default. The paper states 0.1 for CIFAR-100.
        momentum: m of (4); the authors' 0.5.
        negatives: of "other_classes" than the image's own, where there are labels (of soft labels, the most likely
            class), or "any" others.
        contrast_weight: w_CRD; the authors' 0.8. OFA-KD has 1 for its unlike pairs.
        label_weight: weight of the cross-entropy with the labels.
        train_size: N, the number of training images; the training loop gives it.
    """

    needs = Needs(teacher={"pooled"}, student={"pooled"})
    ranges: ClassVar = {"contrast_weight": Range(0.08, 8, log=True), "temperature": Range(0.03, 0.3, log=True)}

    student_bank: Tensor
    teacher_bank: Tensor
    classes: Tensor
    log_normalizers: Tensor

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        width: int = 128,
        num_negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        negatives: Literal["other_classes", "any"] = "other_classes",
        contrast_weight: float = 0.8,
        label_weight: float = 1.0,
        train_size: int | None = None,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        check_range("crd", above=0, temperature=temperature)
        check_range("crd", at_least=1, width=width, num_negatives=num_negatives)
        check_range("crd", at_least=0, below=1, momentum=momentum)
        if train_size is None or train_size < 2:
            raise UserError("CRD remembers every training image: say how many there are with train_size, 2 at least")
        self.num_negatives = num_negatives
        self.temperature = temperature
        self.momentum = momentum
        self.negatives = negatives
        self.contrast_weight = contrast_weight
        self.student_embedding = nn.Linear(student.pooled_size, width)
        self.teacher_embedding = nn.Linear(teacher.pooled_size, width)
        # As the authors': uniform, of norm 1 on average.
        bound = math.sqrt(3 / width)
        for name in ("student_bank", "teacher_bank"):
            self.register_buffer(name, torch.empty(train_size, width).uniform_(-bound, bound))
        self.register_buffer("classes", torch.full((train_size,), _UNKNOWN))
        # Of the student's and of the teacher's vectors; infinite until the first step.
        self.register_buffer("log_normalizers", torch.full((2,), torch.inf))

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        if batch.indices is None:
            raise UserError("CRD remembers every training image: give their positions in the data set, indices=...")
        labels = batch.labels.argmax(dim=1) if batch.labels is not None and batch.labels.ndim == 2 else batch.labels
        ours, theirs = self.student_embedding(student.pooled), self.teacher_embedding(teacher.pooled)
        of_student, of_teacher = self.compare_and_remember(ours, theirs, batch.indices, labels)
        return {"student": self.contrast_weight * of_student, "teacher": self.contrast_weight * of_teacher}

    # Compiled code may compute again on the way back what it needs of the banks and classes. They have changed by then,
    # and its gradient was wrong.
    @torch.compiler.disable
    def compare_and_remember(
        self, student: Tensor, teacher: Tensor, indices: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(2) for the vectors of both models, scalars; then, in training, (4).

        Args:
            student: (B, width), g(x) of the student.
            teacher: (B, width), of the teacher.
            indices: (B,) of the images.
            labels: (B,) their classes, or None.
        """
        chosen, shares = self.draw(indices, labels)
        of_student = self.contrast(0, student, self.teacher_bank, indices, chosen, shares)
        of_teacher = self.contrast(1, teacher, self.student_bank, indices, chosen, shares)
        if self.training:
            self.remember(student, teacher, indices, labels)
        return of_student, of_teacher

    @torch.no_grad()
    def draw(self, indices: Tensor, labels: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """The images k of (2).

        Args:
            indices: (B,) of the images.
            labels: (B,) their classes, or None.

        Returns:
            (B, K) indices, or None for all N images; and the shares of `crd_loss`.
        """
        others = torch.arange(len(self.classes), device=indices.device) != indices[:, None]
        if labels is not None and self.negatives == "other_classes":
            of_other_classes = others & (self.classes != labels[:, None])
            # Where all images that there are have one class, any other image will do.
            others = torch.where(of_other_classes.any(dim=1, keepdim=True), of_other_classes, others)
        weights = others.to(self.student_bank.dtype)
        if self.num_negatives >= len(self.classes):
            return None, weights / weights.sum(dim=1, keepdim=True)
        shares = weights.new_full((1, 1), 1 / self.num_negatives)
        return torch.multinomial(weights, self.num_negatives, replacement=True), shares

    def contrast(
        self, side: int, embedding: Tensor, bank: Tensor, indices: Tensor, chosen: Tensor | None, shares: Tensor
    ) -> Tensor:
        """(2) for the vectors of one model against the bank of the other; in the first step, Z too.

        Args:
            side: 0 for the student's vectors, 1 for the teacher's.
            embedding: (B, width), g(x).
            bank: (N, width), the other model's.
            indices: (B,) of the images.
            chosen: (B, K) as from `draw`.
            shares: as from `draw`.
        """
        # A copy: the bank changes before the way back is gone.
        similarities = _similarities(embedding, bank.clone(), self.temperature)
        positives = similarities.gather(1, indices[:, None])[:, 0]
        negatives = similarities if chosen is None else similarities.gather(1, chosen)
        with torch.no_grad():
            estimate = log_mean_similarity(positives, negatives, shares, self.num_negatives)
            # Over all processes.
            estimates = gather_batches(estimate[None])
            estimate = estimates.logsumexp(dim=0) - math.log(len(estimates))
            known = self.log_normalizers[side]
            log_normalizer = torch.where(known.isfinite(), known, estimate)
            if self.training:
                self.log_normalizers[side] = log_normalizer
        return crd_loss(positives, negatives, shares, log_normalizer, self.num_negatives)

    @torch.no_grad()
    def remember(self, student: Tensor, teacher: Tensor, indices: Tensor, labels: Tensor | None) -> None:
        """Equation (4), with what all processes have seen; the classes too.

        Args:
            student: (B, width), g(x) of the student.
            teacher: (B, width), of the teacher.
            indices: (B,) of the images.
            labels: (B,) their classes, or None.
        """
        # In the same order everywhere: where an image came twice, all processes remember the same.
        everywhere = gather_batches(indices, own_first=False)
        for bank, embedding in ((self.student_bank, student), (self.teacher_bank, teacher)):
            vectors = F.normalize(gather_batches(embedding, own_first=False).to(bank.dtype), dim=1)
            mixed = torch.lerp(vectors, bank[everywhere], self.momentum)
            bank.index_copy_(0, everywhere, F.normalize(mixed, dim=1))
        if labels is not None:
            self.classes.index_copy_(0, everywhere, gather_batches(labels, own_first=False))
