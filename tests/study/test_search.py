"""Trials: which are run, which are cut short, and what becomes of those that were stopped, killed or refused."""

import csv
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from crossdistill.errors import DivergenceError, UserError
from crossdistill.options import MethodOptions, TrainingOptions
from crossdistill.study.tune import tune
from study.helpers import Killed, Runs, best_at_two, options_of, searched


def temperatures(runs: Runs) -> list[float | None]:
    return [options.method.kwargs.get("temperature") for options in runs.calls]


def test_the_recipe_first_and_the_best_last(runs: Runs, tmp_path: Path) -> None:
    tuned = searched(tmp_path / "search", trials=12)
    assert temperatures(runs)[0] == 4.0
    assert [trial.number for trial in tuned.trials] == list(range(12))
    finished = [trial for trial in tuned.trials if trial.state == "finished"]
    assert tuned.best == max(finished, key=lambda trial: trial.top1)
    assert tuned.best.top1 > 48.0 and abs(tuned.best.values["temperature"] - 2) < abs(4 - 2)
    assert tuned.options.method.kwargs == tuned.best.values
    # Trials are judged on a part of the training images; the recipe that comes out is not.
    assert {options.held_out for options in runs.calls} == {0.2}
    assert (tuned.options.held_out, tuned.options.output) == (0.0, "")
    assert [Path(options.output) for options in runs.calls] == [tmp_path / f"search/trials/{k}" for k in range(12)]
    assert not list(tmp_path.glob("search/trials/*/checkpoints"))


def test_files_of_a_search(runs: Runs, tmp_path: Path) -> None:
    tuned = searched(tmp_path)
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert [row["state"] for row in rows] == ["finished"] * 4
    assert [float(row["temperature"]) for row in rows] == [trial.values["temperature"] for trial in tuned.trials]
    recipe = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert not {"held_out", "output", "resume"} & recipe.keys()
    assert TrainingOptions.from_dict(recipe) == tuned.options


def test_a_search_goes_on_and_repeats_nothing(runs: Runs, tmp_path: Path) -> None:
    in_one = searched(tmp_path / "whole", trials=8)
    first = searched(tmp_path / "parts", trials=3)
    assert len(runs.calls) == 8 + 3
    assert searched(tmp_path / "parts", trials=3) == first
    assert len(runs.calls) == 8 + 3
    whole = searched(tmp_path / "parts", trials=8)
    assert len(runs.calls) == 8 + 8
    # As it would have gone without the pause.
    assert [trial.values for trial in whole.trials] == [trial.values for trial in in_one.trials]
    assert len({trial.values["temperature"] for trial in whole.trials}) == 8


def test_another_seed_draws_other_values(runs: Runs, tmp_path: Path) -> None:
    one, two = (searched(tmp_path / str(seed), trials=3, seed=seed) for seed in (0, 1))
    assert one.trials[0].values == two.trials[0].values
    assert all(a.values != b.values for a, b in zip(one.trials[1:], two.trials[1:], strict=True))


def test_a_hopeless_trial_is_pruned_in_the_second_half(runs: Runs, tmp_path: Path) -> None:
    def late(options: TrainingOptions) -> list[float]:
        # The sixth run falls behind from the start; the seventh catches up at half time.
        return {5: [1.0, 1.0, 1.0, 90.0], 6: [1.0, 60.0, 60.0, 60.0]}.get(len(runs.calls) - 1, [10.0, 20.0, 30.0, 40.0])

    runs.behave = late
    tuned = searched(tmp_path, trials=7)
    assert [trial.state for trial in tuned.trials] == ["finished"] * 5 + ["pruned", "finished"]
    assert tuned.trials[5].top1 == 1.0
    assert "after 4 of 8 steps" in tuned.trials[5].note
    assert tuned.best.number == 6


def test_a_trial_that_diverges_counts_and_the_search_goes_on(runs: Runs, tmp_path: Path) -> None:
    def diverging(options: TrainingOptions) -> list[float]:
        if len(runs.calls) == 2:
            raise DivergenceError("the loss term 'logits' is not finite any more")
        return best_at_two(options)

    runs.behave = diverging
    tuned = searched(tmp_path)
    assert [trial.state for trial in tuned.trials] == ["finished", "diverged", "finished", "finished"]
    assert tuned.trials[1].top1 is None and "'logits'" in tuned.trials[1].note
    assert tuned.best.number != 1


def test_a_recipe_that_cannot_be_run_leaves_nothing(runs: Runs, tmp_path: Path) -> None:
    def refused(options: TrainingOptions) -> list[float]:
        raise UserError("there is no data set 'pets'")

    runs.behave = refused
    output = tmp_path / "search"
    # A run is refused before its folder is made.
    run = Runs.__call__
    Runs.__call__ = lambda self, options, console, on_evaluation: self.behave(options)
    try:
        with pytest.raises(UserError, match="no data set 'pets'"):
            searched(output)
    finally:
        Runs.__call__ = run
    assert not output.exists()
    runs.behave = best_at_two
    assert len(searched(output, data="pats").trials) == 4


def test_an_error_in_the_middle_keeps_what_there_is(runs: Runs, tmp_path: Path) -> None:
    def full(options: TrainingOptions) -> list[float]:
        if len(runs.calls) == 3:
            raise UserError("no space left")
        return best_at_two(options)

    runs.behave = full
    with pytest.raises(UserError, match="no space left"):
        searched(tmp_path)
    tuned = searched(tmp_path)
    assert [trial.state for trial in tuned.trials] == ["finished", "finished", "failed", "finished", "finished"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, Killed])
@pytest.mark.parametrize("call", [1, 3])
def test_a_trial_that_was_cut_off_is_taken_up_where_it_was(
    call: int, error: type[BaseException], runs: Runs, tmp_path: Path
) -> None:
    def cut(options: TrainingOptions) -> list[float]:
        if len(runs.calls) == call:
            raise error
        return best_at_two(options)

    runs.behave = cut
    with pytest.raises(error):
        searched(tmp_path)
    tuned = searched(tmp_path)
    (again,) = (options for options in runs.calls if options.resume)
    assert dataclasses.replace(again, resume=False) == runs.calls[call - 1]
    states = [trial.state for trial in tuned.trials]
    assert (states.count("finished"), states.count("cut off")) == (4, 1)
    assert states[call - 1] == "cut off" and len(runs.calls) == 5


def test_several_workers_share_the_trials(runs: Runs, tmp_path: Path) -> None:
    shared = {"storage": f"sqlite:///{tmp_path / 'shared.db'}", "study": "pets"}
    searched(tmp_path / "0", trials=1, **shared)
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(lambda worker: searched(tmp_path / str(worker), trials=7, **shared), range(1, 4)))
    # Each waited for the others' trials, and tells the same.
    assert outcomes[0] == outcomes[1] == outcomes[2]
    tuned = outcomes[0]
    assert {trial.state for trial in tuned.trials} <= {"finished", "pruned"}
    assert len(tuned.trials) == len(runs.calls) == 7
    assert len({trial.values["temperature"] for trial in tuned.trials}) == 7


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epochs": 3}, "begun with --epochs 50, not 3"),
        ({"held_out": 0.3}, "begun with --held_out 0.2, not 0.3"),
        ({"method": MethodOptions("kd", {"teacher_weight": 1.0})}, "begun with --method name=kd, not name=kd kwargs="),
        ({"search": ["label_weight"]}, "begun with --search temperature=1 to 8 (log), not label_weight="),
    ],
)
def test_another_recipe_in_the_same_search_is_refused(changes: dict, told: str, runs: Runs, tmp_path: Path) -> None:
    searched(tmp_path, trials=1)
    with pytest.raises(UserError) as refusal:
        searched(tmp_path, trials=2, **changes)
    assert told in str(refusal.value) and "\n" not in str(refusal.value)
    assert len(runs.calls) == 1
    # Where and how it is computed is free.
    searched(tmp_path, trials=2, workers=0, log_every=7)


def test_a_start_out_of_range_is_kept_as_trial_0(runs: Runs, tmp_path: Path) -> None:
    tuned = searched(tmp_path, method=MethodOptions("kd", {"temperature": 20.0}))
    assert temperatures(runs)[0] == 20.0 and tuned.trials[0].values == {}
    assert all(1 <= temperature <= 8 for temperature in temperatures(runs)[1:])


def test_no_trial_begins_after_the_minutes(runs: Runs, tmp_path: Path) -> None:
    tuned = tune(options_of(), minutes=0.02, output=tmp_path, console=Console(quiet=True))
    assert 1 <= len(tuned.trials) < 200


def test_folders_and_devices_that_cannot_be_used(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("in the way")
    with pytest.raises(UserError, match="not empty"):
        searched(tmp_path)
    with pytest.raises(UserError, match="--output is missing"):
        tune(options_of(), trials=1, output="")
    with pytest.raises(UserError, match="one worker for each device"):
        searched(tmp_path / "search", devices=2)
    assert runs.calls == [] and [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
