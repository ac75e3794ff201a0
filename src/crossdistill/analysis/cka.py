"""How alike the stages of two models are: minibatch CKA, centred kernel alignment with a linear kernel.

Nguyen, Raghu, Kornblith: Do Wide and Deep Networks Learn the Same Things? (ICLR 2021, arXiv 2010.15327). With the inner
products K = X X^T and L = Y Y^T of the features X, Y (n, D) of n images, and K~, L~ the same without their diagonals,

    HSIC_1(K, L) = [ tr(K~ L~) + (1^T K~ 1)(1^T L~ 1) / ((n-1)(n-2)) - 2 (1^T K~ L~ 1) / (n-2) ] / (n (n-3))
    CKA = mean HSIC_1(K, L) / sqrt(mean HSIC_1(K, K) * mean HSIC_1(L, L)),      means over batches

HSIC_1 (Song et al., JMLR 2012) has no bias, so that the outcome does not depend on how many images a batch has, and
models never need more than a batch in memory. CKA is 1 for features that differ by a rotation and a scale, and near 0,
to both sides, for independent ones.

The features are whole maps (C * H * W numbers of an image), not their means over positions: so a pair of stages is
alike if it says the same things of the same places, as in the papers that compared architectures, and as the methods
that match maps want it. Grids and numbers of channels may differ, for only products between images are compared. Class
and register tokens are left out.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# The estimator divides by n - 3.
FEWEST_IMAGES = 4


def linear_kernel(features: Tensor) -> Tensor:
    """(n, n) float64 on the CPU: inner products of features (n, ...) whose mean over the images is taken away.

    The mean makes no difference to the estimator, but float32 loses what stands beside a large one.
    """
    flat = features.flatten(1).float()
    flat = flat - flat.mean(dim=0)
    return (flat @ flat.T).cpu().double()


def unbiased_hsic(kernels: Tensor) -> Tensor:
    """HSIC_1 of every pair of kernels.

    Args:
        kernels: (S, n, n), symmetric, of the same n >= 4 images.

    Returns:
        (S, S).
    """
    n = kernels.shape[-1]
    hollow = kernels - torch.diag_embed(kernels.diagonal(dim1=1, dim2=2))
    flat, sums = hollow.flatten(1), hollow.sum(dim=2)
    totals = sums.sum(dim=1)
    products = flat @ flat.T + totals[:, None] * totals / ((n - 1) * (n - 2)) - 2 / (n - 2) * (sums @ sums.T)
    return products / (n * (n - 3))


class MinibatchCKA:
    """CKA between all of a list of features, gathered batch by batch."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None

    def add(self, features: Sequence[Tensor]) -> None:
        """Take a batch in; one of fewer than four images has no estimate and is left out.

        Args:
            features: S tensors (n, ...), of the same images in the same order; the same S in every batch.
        """
        n = len(features[0])
        if n < FEWEST_IMAGES:
            return
        # Weighted by the images: the last batch may be smaller, and any weights leave the mean without bias.
        hsic = n * unbiased_hsic(torch.stack([linear_kernel(feature) for feature in features]))
        self._sum = hsic if self._sum is None else self._sum + hsic

    def result(self) -> Tensor:
        """(S, S) float64; NaN for features that are the same for every image."""
        assert self._sum is not None, "no batch of four images"
        # The estimate of a constant's own HSIC may be a little below 0.
        scale = self._sum.diagonal().clamp(min=0).sqrt()
        scale = scale.where(scale > 0, torch.nan)
        return self._sum / (scale[:, None] * scale)
