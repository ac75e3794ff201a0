"""What a model's pooled vectors are worth, whatever its head says: classes of nearest neighbours, and a linear layer.

k-NN: each vector is answered by its 20 nearest of the training images, by cosine, each with the weight
exp(cosine / 0.07): Wu et al.: Unsupervised Feature Learning via Non-parametric Instance Discrimination (CVPR 2018,
arXiv 1805.01978), with the neighbours and the temperature of DINO's evaluation (ICCV 2021, arXiv 2104.14294).

Linear: logistic regression on standardised vectors, whose penalty is chosen on a tenth of the training images.
"""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossdistill.data import EvalLoader, ImageData
from crossdistill.errors import UserError
from crossdistill.staged import StagedModel
from crossdistill.staged.modes import eval_mode

NEIGHBOURS = 20
TEMPERATURE = 0.07
# Inverse strengths of the penalty that are tried.
_INVERSE_PENALTIES = [10.0**exponent for exponent in range(-4, 3)]
_HELD_OUT = 0.1
_ITERATIONS = 1000
# Queries that are compared with all training images at once.
_QUERIES = 1024


@torch.no_grad()
def represent(model: StagedModel, loader: EvalLoader) -> Tensor:
    """What a model's classifier reads, of every image.

    Args:
        model: on the device of the batches; its mode stays.
        loader: the images; in several processes each reads its share, and all get the whole.

    Returns:
        (N, D) float32, in the order of the images.
    """
    vectors = torch.zeros(loader.size, model.pooled_size, device=next(model.parameters()).device)
    with eval_mode(model):
        for batch in loader:
            vectors[batch.indices] = model(batch.images).pooled.float()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(vectors)
    return vectors


def knn_answers(train: Tensor, labels: Tensor, queries: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """The class of each query by its nearest neighbours.

    Args:
        train: (N, D) vectors of labelled images.
        labels: (N,) their classes.
        queries: (M, D).
        neighbours: how many of the nearest are asked; of fewer images all.

    Returns:
        (M,) int64.
    """
    train, labels = F.normalize(train, dim=1), labels.to(train.device)
    answers = []
    for part in F.normalize(queries, dim=1).split(_QUERIES):
        cosines, nearest = (part @ train.T).topk(min(neighbours, len(train)), dim=1)
        votes = part.new_zeros(len(part), int(labels.max()) + 1)
        answers.append(votes.scatter_add_(1, labels[nearest], (cosines / TEMPERATURE).exp()).argmax(dim=1))
    return torch.cat(answers)


def linear_answers(train: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """The class of each query by a linear layer that is trained on the others: (M,) int64; arguments as `knn_answers`.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import train_test_split
        from sklearn.pipeline import Pipeline, make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise UserError("a linear probe needs scikit-learn: pip install 'crossdistill[probe]'") from error

    def fit(vectors: np.ndarray, known: np.ndarray, inverse_penalty: float) -> "Pipeline":
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=_ITERATIONS))
        with warnings.catch_warnings():
            # A weak penalty that does not converge in time is one of several that are tried.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return probe.fit(vectors, known)

    vectors, known = train.cpu().numpy(), labels.cpu().numpy()
    classes, counts = np.unique(known, return_counts=True)
    held_out = max(round(_HELD_OUT * len(known)), len(classes))
    best = 1.0
    if counts.min() > 1 and len(known) - held_out >= len(classes):
        parts = train_test_split(vectors, known, test_size=held_out, stratify=known, random_state=0)
        fitting, judging, of_fitting, of_judging = parts
        scores = [fit(fitting, of_fitting, c).score(judging, of_judging) for c in _INVERSE_PENALTIES]
        best = _INVERSE_PENALTIES[int(np.argmax(scores))]
    answers = fit(vectors, known, best).predict(queries.cpu().numpy())
    return torch.from_numpy(answers).to(queries.device)


class Probe:
    """Labelled images that tell what a student's representation is worth while it is trained.

    Args:
        data: the images: neighbours are sought among the training images, for the validation images.
        image_size: (height, width) of the batches.
        batch_size: of one pass.
        device: where the student is.
        workers: processes that decode images.
        rank: number of this process.
        world_size: number of processes.
        cache_images: as for `EvalLoader`.

    Attributes:
        right: (M,) whether each validation image was answered right at the last call.
    """

    def __init__(
        self,
        data: ImageData,
        *,
        image_size: tuple[int, int],
        batch_size: int,
        device: torch.device,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
        cache_images: str = "auto",
    ) -> None:
        self._train, self._validation = (
            EvalLoader(
                source,
                image_size=image_size,
                batch_size=batch_size,
                device=device,
                workers=workers,
                rank=rank,
                world_size=world_size,
                cache_images=cache_images,
            )
            for source in (data.train, data.validation)
        )
        self._train_labels, self._labels = data.train.labels, data.validation.labels
        self.right = torch.zeros(len(self._labels), dtype=torch.bool)

    def top1(self, model: StagedModel) -> float:
        """Accuracy of the nearest neighbours, in percent."""
        answers = knn_answers(represent(model, self._train), self._train_labels, represent(model, self._validation))
        self.right = answers.cpu() == self._labels
        return 100 * self.right.float().mean().item()
