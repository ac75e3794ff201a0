"""Whether a difference is more than noise: paired over seeds, and over seeds and images together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

CONFIDENCE = 0.95
POWER = 0.8
RESAMPLES = 2000
# More seeds than this settle nothing in practice.
MOST_SEEDS = 1000
# Of the bootstrap, so that the same runs give the same table.
_SEED = 0


@dataclass(frozen=True)
class Paired:
    """Differences between two rows, of runs with the same seed.

    Attributes:
        mean: of the differences.
        sd: their standard deviation (n - 1); None with one seed.
        low: lower end of the 95 % interval of the mean, by Student's t over seeds; None with one seed.
        high: its upper end.
        p: of the paired t test, two-sided; None with one seed.
    """

    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


def paired(differences: np.ndarray) -> Paired:
    """The mean of (S,) differences with its t interval over seeds."""
    mean = float(np.mean(differences))
    if len(differences) < 2:
        return Paired(mean)
    sd = float(np.std(differences, ddof=1))
    if sd == 0:
        # All seeds differ alike: the interval is a point, and scipy would divide by zero.
        return Paired(mean, 0.0, mean, mean, 1.0 if mean == 0 else 0.0)
    test = stats.ttest_1samp(differences, 0.0)
    interval = test.confidence_interval(CONFIDENCE)
    return Paired(mean, sd, float(interval.low), float(interval.high), float(test.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values of several comparisons, in their order."""
    return multipletests(p_values, method="holm")[1].tolist() if p_values else []


def resampled_images(
    evidence: np.ndarray, value: Callable[[np.ndarray], np.ndarray], resamples: int = RESAMPLES
) -> np.ndarray:
    """(B, M) a metric of M runs on B draws of the images with replacement, the same images for all runs.

    Args:
        evidence: (N, M, ...) what the metric needs of each image of each run.
        value: the metric, (N, M, ...) -> (M,).
        resamples: B.
    """
    generator = np.random.default_rng(_SEED)
    count = len(evidence)
    return np.stack([value(evidence[generator.integers(count, size=count)]) for _ in range(resamples)])


def bootstrap_interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of a mean difference, over seeds and images together.

    Args:
        differences: (B, S) between two rows, of S seeds on B draws of the images; seeds are drawn here, with
            replacement, anew for each of the draws.
    """
    generator = np.random.default_rng(_SEED + 1)
    seeds = generator.integers(differences.shape[1], size=differences.shape)
    means = np.take_along_axis(differences, seeds, axis=1).mean(axis=1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def seeds_to_settle(mean: float, sd: float) -> int | None:
    """Seeds with which a paired t test finds a difference of this mean and spread with a power of 80 %.

    None where more than 1000 are needed. The spread of a few seeds is itself uncertain, and so is this number.
    """
    if sd == 0:
        return None if mean == 0 else 2
    counts = np.arange(2, MOST_SEEDS + 1)
    power = TTestPower().power(abs(mean) / sd, counts, alpha=1 - CONFIDENCE)
    enough = np.flatnonzero(power >= POWER)
    return int(counts[enough[0]]) if len(enough) else None


def detectable(sd: float, seeds: int) -> float | None:
    """The mean difference that a paired t test over so many seeds finds with a power of 80 %; None for one seed."""
    if seeds < 2:
        return None
    if sd == 0:
        return 0.0
    effect = TTestPower().solve_power(nobs=seeds, alpha=1 - CONFIDENCE, power=POWER)
    return float(np.atleast_1d(effect)[0]) * sd


def verdict(mean: float, interval: tuple[float, float] | None, p_holm: float | None) -> str:
    """`level` where the interval covers 0; else `gain` or `loss`, with a word where Holm's correction takes it back.

    "one seed" where there is no interval.
    """
    if interval is None or p_holm is None:
        return "one seed"
    low, high = interval
    if low <= 0 <= high:
        return "level"
    word = "gain" if mean > 0 else "loss"
    return word if p_holm <= 1 - CONFIDENCE else f"{word}, not after Holm"
