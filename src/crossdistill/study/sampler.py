"""How the values of a trial are drawn."""

from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial

# Random trials before the model of the others decides. Optuna's 10 would be half of a search of 20.
_RANDOM_TRIALS = 6


def first_number(trial: FrozenTrial) -> int:
    """The number of a trial, or of the one that was cut off and that it takes up."""
    taken_up = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if taken_up is None else taken_up


class Sampler(BaseSampler):
    """The recipe's own values in trial 0, then a tree-structured Parzen estimator.

    Its random numbers depend on the seed and the trial alone. So workers with the same seed draw different values, and
    a search that goes on draws those that it would have drawn.

    Args:
        seed: of the search.
        start: the recipe's own values.
    """

    def __init__(self, seed: int, start: dict[str, Any]) -> None:
        self.seed = seed
        self.start = start
        self._drawing: tuple[int, TPESampler] | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial) if first_number(trial) else {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if first_number(trial) == 0:
            return self.start[param_name]
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def _of(self, trial: FrozenTrial) -> TPESampler:
        if self._drawing is None or self._drawing[0] != trial.number:
            # Far enough apart that the numbers of one seed are not those of the next one's neighbouring trial.
            seed = (self.seed * 1_000_003 + trial.number) % 2**32
            sampler = TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS)
            self._drawing = (trial.number, sampler)
        return self._drawing[1]
