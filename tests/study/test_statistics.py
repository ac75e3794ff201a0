"""The statistics of a study, against formulas, hand-made numbers and other implementations."""

import math

import numpy as np
import pytest
from scipy import stats

from crossdistill.study import statistics
from crossdistill.study.metrics import TopK

DIFFERENCES = np.array([1.2, 0.4, 0.9, 1.5, -0.1, 0.7])


def test_the_interval_is_students_by_formula() -> None:
    found = statistics.paired(DIFFERENCES)
    mean = sum(DIFFERENCES) / 6
    sd = math.sqrt(sum((one - mean) ** 2 for one in DIFFERENCES) / 5)
    # 2.570582 is the 97.5 % quantile of Student's t with 5 degrees of freedom, from a table.
    half = 2.570582 * sd / math.sqrt(6)
    assert (found.mean, found.sd) == (pytest.approx(mean), pytest.approx(sd))
    assert (found.low, found.high) == (pytest.approx(mean - half, abs=1e-5), pytest.approx(mean + half, abs=1e-5))


def test_the_test_is_scipys_paired_one() -> None:
    baseline = np.array([80.0, 81.0, 79.5, 80.2, 80.9, 80.0])
    other = stats.ttest_rel(baseline + DIFFERENCES, baseline)
    assert statistics.paired(DIFFERENCES).p == pytest.approx(other.pvalue)


def test_one_seed_has_no_interval_and_equal_seeds_have_a_point() -> None:
    assert statistics.paired(np.array([2.0])) == statistics.Paired(2.0)
    assert statistics.paired(np.array([2.0, 2.0])) == statistics.Paired(2.0, 0.0, 2.0, 2.0, 0.0)
    assert statistics.paired(np.zeros(3)).p == 1.0


def test_holm_by_hand() -> None:
    # Sorted 0.01 0.03 0.04 times 3 2 1: 0.03 0.06 0.04, made monotone: 0.03 0.06 0.06.
    assert statistics.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert statistics.holm([]) == []


@pytest.mark.parametrize(
    ("mean", "interval", "p_holm", "word"),
    [
        (1.0, (0.2, 1.8), 0.02, "gain"),
        (-1.0, (-1.8, -0.2), 0.02, "loss"),
        (1.0, (-0.1, 2.1), 0.07, "level"),
        (1.0, (0.1, 1.9), 0.09, "gain, not after Holm"),
        (1.0, None, None, "one seed"),
    ],
)
def test_the_words(mean: float, interval: tuple[float, float] | None, p_holm: float | None, word: str) -> None:
    assert statistics.verdict(mean, interval, p_holm) == word


def test_seeds_to_settle_are_the_least_that_have_the_power() -> None:
    needed = statistics.seeds_to_settle(mean=0.5, sd=0.8)
    assert needed is not None

    def power(count: int) -> float:
        """By the noncentral t distribution, without statsmodels."""
        critical = stats.t.ppf(0.975, count - 1)
        noncentrality = 0.5 / 0.8 * math.sqrt(count)
        return (
            1 - stats.nct.cdf(critical, count - 1, noncentrality) + stats.nct.cdf(-critical, count - 1, noncentrality)
        )

    assert power(needed) >= 0.8 > power(needed - 1)
    assert statistics.seeds_to_settle(0.001, 1.0) is None
    # What so many seeds can detect is the difference that needs so many.
    detectable = statistics.detectable(0.8, needed)
    assert detectable is not None and detectable <= 0.5
    assert statistics.detectable(0.8, 1) is None


def test_resampled_images_are_the_same_for_all_runs_and_recompute_the_metric() -> None:
    right = np.random.default_rng(3).random((400, 1)) < 0.7
    evidence = np.concatenate([right, right, ~right], axis=1)
    drawn = statistics.resampled_images(evidence, TopK(1).value, resamples=300)
    assert drawn.shape == (300, 3)
    assert (drawn[:, 0] == drawn[:, 1]).all()
    np.testing.assert_allclose(drawn[:, 0] + drawn[:, 2], 100)
    # The spread over draws is that of a binomial share.
    share = right.mean()
    assert drawn[:, 0].std() == pytest.approx(100 * math.sqrt(share * (1 - share) / 400), rel=0.15)


def test_bootstrap_over_images_alone_is_scipys() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.random(500) < 0.8, generator.random(500) < 0.7
    drawn = statistics.resampled_images(np.stack([one, other], axis=1), TopK(1).value)
    low, high = statistics.bootstrap_interval(drawn[:, :1] - drawn[:, 1:])
    differences = 100 * (one.astype(float) - other)
    theirs = stats.bootstrap((differences,), np.mean, method="percentile", rng=1).confidence_interval
    assert (low, high) == (pytest.approx(theirs.low, abs=0.4), pytest.approx(theirs.high, abs=0.4))


def test_bootstrap_over_seeds_widens_the_interval() -> None:
    drawn = np.tile(np.array([0.0, 1.0, 5.0]), (2000, 1))
    low, high = statistics.bootstrap_interval(drawn)
    # No noise of images: what is left is drawing three of the three numbers.
    assert (low, high) == (0.0, 5.0) or (0 <= low < 1 and 3 < high <= 5)
    assert statistics.bootstrap_interval(drawn) == (low, high)
