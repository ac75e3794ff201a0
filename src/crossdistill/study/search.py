"""A search for hyper-parameters on Optuna: trials that are shared, cut off, taken up and pruned."""

import contextlib
import dataclasses
import json
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from crossdistill.errors import DivergenceError, UserError
from crossdistill.options import TrainingOptions
from crossdistill.ranges import Choice
from crossdistill.study.sampler import Sampler, first_number
from crossdistill.study.search_space import search_space, with_values
from crossdistill.study.storage import (
    GRACE_SECONDS,
    open_storage,
    parse_address,
    shown,
    storage_failure,
    take_up,
    unusable,
)
from crossdistill.study.trials import SearchFolder, Tuned, cut_off_before, read_trials, short, trials_table
from crossdistill.study.tune import HELD_OUT
from crossdistill.training import distill
from crossdistill.training.run_folder import RunFolder

# Finished trials before one may be pruned, and the share of a run before which none is: the curves of high learning
# rates start low and cross the others when the schedule comes down.
_UNPRUNED_TRIALS = 4
_UNPRUNED_SHARE = 0.5
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_WAIT_SECONDS = 2.0
_RECIPE = "recipe"
_WIDE = 250


class _SurplusError(Exception):
    """Another worker was faster: this trial would be one too many."""


class Search:
    """One worker of a search; `tune` has the arguments' meaning."""

    def __init__(
        self,
        options: TrainingOptions,
        *,
        trials: int | None,
        minutes: float | None,
        storage: str | None,
        output: str | Path,
        search: Sequence[str] | None,
        study: str | None,
        storage_wait: float,
        console: Console,
    ) -> None:
        # What belongs to one call is no part of the recipe that the trials share.
        self.options = dataclasses.replace(options, output="", resume=False, held_out=options.held_out or HELD_OUT)
        self.space = search_space(self.options, search)
        self.wanted = trials
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.folder = SearchFolder(output)
        if not self.folder.trials.exists():
            RunFolder(output).check(resume=False)
        self.url = parse_address(storage, self.folder.path)
        self.own_file = storage is None
        self.name = study or self.folder.path.absolute().name
        self.storage_wait = storage_wait
        self.console = console
        self._running: int | None = None

    def run(self) -> Tuned:
        """Take trials until there are enough, and tell what came out."""
        if self.own_file:
            self.folder.path.mkdir(parents=True, exist_ok=True)
        with _quiet_optuna():
            try:
                study = self._open()
                self.folder.trials.mkdir(parents=True, exist_ok=True)
                self._take_trials(study)
                return self._outcome(study)
            except Exception as error:
                failure = storage_failure(error)
                if failure is None or isinstance(error, UserError):
                    raise
                raise unusable(self.url, failure) from error

    # The study

    def _open(self) -> optuna.Study:
        self.storage = open_storage(self.url, self.storage_wait, self._say)
        study = optuna.create_study(
            study_name=self.name,
            storage=self.storage,
            sampler=Sampler(self.options.seed, self.space.start),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED_TRIALS),
            direction="maximize",
            load_if_exists=True,
        )
        identity = self._identity()
        recorded = study.user_attrs.get(_RECIPE)
        if recorded is None:
            study.set_user_attr(_RECIPE, identity)
        elif recorded != identity:
            names = sorted(name for name in recorded | identity if recorded.get(name) != identity.get(name))
            name = names[0]
            raise UserError(
                f"the search '{self.name}' in {shown(self.url)} was begun with --{name} {_told(recorded.get(name))}, "
                f"not {_told(identity.get(name))}: leave it so, or choose another --output or --study"
            )
        return study

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def _identity(self) -> dict[str, Any]:
        """What all calls of a search have in common, as JSON gives it back."""
        fields = dataclasses.fields(TrainingOptions)
        recipe = dataclasses.asdict(self.options)
        same = {field.name: recipe[field.name] for field in fields if not field.metadata.get("free_on_resume")}
        same["search"] = {name: str(range_) for name, range_ in self.space.ranges.items()}
        return json.loads(json.dumps(same, default=str))

    # Taking trials

    def _take_trials(self, study: optuna.Study) -> None:
        told = False
        while self.deadline is None or time.monotonic() < self.deadline:
            optuna.storages.fail_stale_trials(study)
            trials = study.get_trials(deepcopy=False)
            ended, running, waiting = (
                sum(trial.state in states for trial in trials)
                for states in (_ENDED, (TrialState.RUNNING,), (TrialState.WAITING,))
            )
            if self.wanted is not None and ended >= self.wanted:
                return
            if self.wanted is not None and not waiting and ended + running >= self.wanted:
                if not told:
                    self.console.print(
                        f"waiting for {running} trial{'s' if running > 1 else ''} of other workers; one that was "
                        f"killed is taken up {GRACE_SECONDS} s after its last sign of life"
                    )
                told = True
                time.sleep(_WAIT_SECONDS)
                continue
            self._take_one(study)
            self.folder.write_trials(read_trials(study), list(self.space.ranges))

    def _take_one(self, study: optuna.Study) -> None:
        self._running = None
        try:
            study.optimize(self._objective, n_trials=1, catch=(_SurplusError,), gc_after_trial=True)
        except KeyboardInterrupt:
            if self._running is not None:
                take_up(study, study.get_trials(deepcopy=True)[self._running])
            raise
        except UserError:
            trials = study.get_trials(deepcopy=True)
            if not any(trial.state in _ENDED or trial.state == TrialState.RUNNING for trial in trials):
                self._forget()
            elif self._running is not None and first_number(trials[self._running]) == 0:
                # The others are measured by it.
                take_up(study, trials[self._running])
            raise
        except Exception:
            if self._running is None or not _was_taken_up(study, self._running):
                raise
            self.console.print(f"trial {self._running} was silent for too long, and another worker has taken it up")

    def _objective(self, trial: optuna.Trial) -> float:
        trials = trial.study.get_trials(deepcopy=False)
        stored = trials[trial.number]
        first = first_number(stored)
        if first != 0 and self._is_surplus(trials[: trial.number]):
            trial.set_user_attr("surplus", True)
            raise _SurplusError
        self._running = trial.number
        names = self.space.start if first == 0 else self.space.ranges
        values = {name: self._suggest(trial, name) for name in names}
        # A trial that was cut off goes on in its folder.
        folder = RunFolder(self.folder.run(first))
        trial.set_user_attr("folder", str(folder.path.absolute()))
        options = with_values(self.options, values)
        options.output, options.resume = str(folder.path), folder.recipe.exists()
        shown_values = "  ".join(f"{name} {short(value)}" for name, value in values.items())
        self._say(f"trial {trial.number}  {shown_values if first else 'the recipe as it is'}")

        # One that is taken up may make the last evaluation again.
        reported = set(stored.intermediate_values)

        def report(step: int, total_steps: int, evaluated: dict[str, float]) -> None:
            if "top1" not in evaluated:
                raise UserError("a search judges by top-1, and the images have no labels: give labelled ones")
            if not reported:
                trial.set_user_attr("images", int(evaluated["images"]))
            if step not in reported:
                trial.report(evaluated["top1"], step)
                reported.add(step)
            if _UNPRUNED_SHARE * total_steps <= step < total_steps and trial.should_prune():
                raise optuna.TrialPruned(f"behind the median after {step} of {total_steps} steps")

        # The first says what there is to say of the models and the data; the others would say the same.
        console = self.console if first == 0 else Console(quiet=True)
        try:
            top1 = distill(options, console, on_evaluation=report)["top1"]
        except (optuna.TrialPruned, DivergenceError) as error:
            state = "diverged" if isinstance(error, DivergenceError) else "pruned"
            trial.set_user_attr("ended", state)
            trial.set_user_attr("note", " ".join(str(error).split()))
            self._say(f"trial {trial.number}  {state}: {error}")
            shutil.rmtree(folder.checkpoints, ignore_errors=True)
            # Without a value of its own it counts as the worst.
            raise optuna.TrialPruned(str(error)) from error
        self._say(f"trial {trial.number}  held-out top-1 {top1:.2f} %")
        shutil.rmtree(folder.checkpoints, ignore_errors=True)
        return top1

    def _suggest(self, trial: optuna.Trial, name: str) -> Any:
        range_ = self.space.ranges[name]
        if isinstance(range_, Choice):
            return trial.suggest_categorical(name, range_.values)
        return trial.suggest_float(name, range_.low, range_.high, log=range_.log)

    def _is_surplus(self, before: list[FrozenTrial]) -> bool:
        """Whether the trials before one are enough: where two workers have taken the last place, one gives way.

        Optuna's `MaxTrialsCallback` looks only after a trial, and so each further worker would add one to the total.
        """
        states = (*_ENDED, TrialState.RUNNING, TrialState.WAITING)
        return self.wanted is not None and sum(trial.state in states for trial in before) >= self.wanted

    def _forget(self) -> None:
        """Leave nothing of a search whose recipe cannot be run: it can be called again when it is mended."""
        optuna.delete_study(study_name=self.name, storage=self.storage)
        with contextlib.suppress(OSError):
            if self.own_file:
                Path(str(self.url.database)).unlink()
            self.folder.trials.rmdir()
            self.folder.path.rmdir()

    # The outcome

    def _outcome(self, study: optuna.Study) -> Tuned:
        trials = read_trials(study)
        names = list(self.space.ranges)
        self.folder.write_trials(trials, names)
        finished = [trial for trial in trials if trial.state == "finished"]
        best = max(finished, key=lambda trial: (trial.top1, -trial.number), default=None)
        console = self.console
        if not console.is_terminal:
            # In a file or a pipe there is no width to keep to.
            console = Console(file=console.file, width=_WIDE, quiet=console.quiet)
        console.print(trials_table(trials, names, best))
        if best is None:
            raise UserError(f"no trial of {self.folder.path} has finished: call it again with more --minutes")
        options = dataclasses.replace(with_values(self.options, best.values), held_out=0.0)
        self.folder.write_best(options)
        self._say(f"the best recipe: {self.folder.best}")
        return Tuned(options, best, trials)


def _was_taken_up(study: optuna.Study, number: int) -> bool:
    return any(number in cut_off_before(trial) for trial in study.get_trials(deepcopy=False))


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={part}" for key, part in value.items() if part) or "{}"
    return str(value)


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[None]:
    """What becomes of a trial is told here; and heartbeats, which Optuna calls experimental, are used on purpose."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
