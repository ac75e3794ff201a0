"""From the run folders of a study to its results."""

import statistics as means
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossdistill.errors import UserError
from crossdistill.study import statistics
from crossdistill.study.metrics import Metric, accuracy_of_classes, agreement, calibration_error, find_metric
from crossdistill.study.record import Record, read_record
from crossdistill.study.results import Agreement, Cost, Difference, PairResult, Results, RowResult, RunResult
from crossdistill.study.runs import Run, plan
from crossdistill.study.tuned_rows import told


@dataclass
class _Finished:
    """What is kept of a finished run; its logits are not, which for many classes would not fit into memory."""

    run: Run
    summary: dict[str, Any]
    evidence: np.ndarray
    value: float
    calibration_error: float | None
    classes: dict[str, float]
    agreement: tuple[float, float | None, float | None] | None
    images: list[str]


def collect(folder: str | Path) -> Results:
    """The results of a study, from what is in its folder.

    Args:
        folder: where `compare` wrote.

    Raises:
        UserError: it holds no study, or a run in it is damaged.
    """
    folder = Path(folder).expanduser()
    record = read_record(folder)
    study = record.study
    metric = find_metric(study.metric)
    runs = plan(study, folder, record)
    finished = {run.name: _read(run, metric) for run in runs if run.folder.finished}
    results = Results(study.question, metric.name, metric.title, list(study.seeds))
    results.missing = [run.name for run in runs if run.name not in finished]
    for pair in study.pairs:
        there = [finished[run.name] for run in runs if run.pair == pair and run.name in finished]
        if there:
            results.pairs.append(_pair(record, pair, there, folder, metric))
    results.notes = _notes(list(finished.values()))
    if study.published is not None and study.published.top1:
        results.notes.append(
            f"published numbers: {study.published.source}; what is not sure about them is in study.yaml, under doubts"
        )
    return results


def _read(run: Run, metric: Metric) -> _Finished:
    predictions = run.folder.read_predictions()
    evidence = metric.evidence(predictions)
    labelled = predictions.labelled
    accuracies = accuracy_of_classes(predictions).tolist() if labelled else []
    of_classes = zip(predictions.classes if labelled else [], accuracies, strict=True)
    return _Finished(
        run,
        run.folder.read_summary(),
        evidence,
        float(metric.value(evidence[:, None])[0]),
        calibration_error(predictions.student, predictions.labels) if labelled else None,
        {name: value for name, value in of_classes if value == value},
        agreement(predictions),
        predictions.images,
    )


def _pair(record: Record, pair: str, there: list[_Finished], folder: Path, metric: Metric) -> PairResult:
    study = record.study
    first = next((one.summary for one in there if not one.run.row.control), there[0].summary)
    result = PairResult(
        pair,
        first["teacher"],
        first["teacher_top1"],
        first["student"],
        first["student_params"],
        first["data"],
        first["train_images"],
        first["validation_images"],
    )
    for one in there:
        if one.images != there[0].images:
            raise UserError(f"{one.run.name} was judged on other images than {there[0].run.name}: make it another pair")
    # One draw of images for all runs of the pair, so that differences are paired over images too.
    drawn = statistics.resampled_images(np.stack([one.evidence for one in there], axis=1), metric.value)
    columns = {(one.run.row.name, one.run.seed): drawn[:, k] for k, one in enumerate(there)}
    by_row = {row.name: [one for one in there if one.run.row.name == row.name] for row in study.rows_of(pair)}
    for row in study.rows_of(pair):
        runs = by_row[row.name]
        epochs = runs[0].summary["epochs"] if runs else study.options(pair, row).epochs
        method = study.layer(pair, row)["method.name"]
        found = RowResult(row.name, method, row.base or row.name, row.control, row.budget, epochs)
        found.missing = [seed for seed in study.seeds if seed not in {one.run.seed for one in runs}]
        if runs:
            _describe(found, runs, folder)
        for name in study.baselines_of(pair, row):
            difference = _difference(name, runs, by_row[name], columns)
            if difference is not None:
                found.differences.append(difference)
        suffix = f"-x{row.budget:g}" if row.budget != 1 else ""
        found.class_changes = _class_changes(runs, by_row.get(f"scratch{suffix}", []), row.name)
        if study.published is not None and metric.name == "top1":
            found.published = study.published.of(pair, row.name)
        found.note = _note(record, pair, found)
        result.rows.append(found)
    _correct(result.rows)
    _compare_cost(result.rows)
    result.curves = _curves(result.rows)
    return result


def _note(record: Record, pair: str, row: RowResult) -> str:
    if row.control == "same-time" and pair in record.same_time:
        length = record.same_time[pair]
        return (
            f"{length['epochs']} epochs, which take as long as {length['as_long_as']} "
            f"({length['factor']:.2f} times the steps of {row.base})"
        )
    if row.name == row.base and (tuned := record.tuned.get(f"{pair}/{row.name}")):
        as_given = "" if tuned["recipe"] is None else f"; as given {tuned['recipe']:.2f} %"
        return (
            f"chosen in {tuned['trials']} trials on held-out images: {told(tuned['values'])} "
            f"({tuned['best']:.2f} % there{as_given})"
        )
    if row.name == row.base and record.study.tune_trials:
        return "not tuned: its teacher is another row"
    return ""


def _describe(row: RowResult, runs: list[_Finished], folder: Path) -> None:
    """What the runs of a row say by themselves."""
    values = [one.value for one in runs]
    row.runs = [
        RunResult(one.run.seed, one.run.folder.path.relative_to(folder).as_posix(), one.value, one.summary)
        for one in runs
    ]
    row.mean = means.mean(values)
    row.sd = means.stdev(values) if len(values) > 1 else None
    row.agreement = _agreement([one.agreement for one in runs if one.agreement is not None])
    errors = [one.calibration_error for one in runs if one.calibration_error is not None]
    row.calibration_error = means.mean(errors) if errors else None
    row.cost = Cost(
        seconds=means.mean(one.summary["seconds"] for one in runs),
        step_seconds=means.median(one.summary["seconds"] / one.summary["steps"] for one in runs),
        step_to_kd=None,
        extra_parameters=runs[0].summary["extra_params"],
        peak_memory_bytes=max(one.summary["peak_memory_bytes"] for one in runs),
    )


def _agreement(each: Sequence[tuple[float, float | None, float | None]]) -> Agreement | None:
    if not each:
        return None
    right, wrong = ([value for one in each if (value := one[part]) is not None] for part in (1, 2))
    return Agreement(
        means.mean(one[0] for one in each),
        means.mean(right) if right else None,
        means.mean(wrong) if wrong else None,
    )


def _difference(
    baseline: str, runs: list[_Finished], others: list[_Finished], columns: dict[tuple[str, int], np.ndarray]
) -> Difference | None:
    theirs = {one.run.seed: one for one in others}
    shared = [one for one in runs if one.run.seed in theirs]
    if not shared:
        return None
    values = [one.value - theirs[one.run.seed].value for one in shared]
    drawn = np.stack(
        [columns[one.run.row.name, one.run.seed] - columns[baseline, one.run.seed] for one in shared], axis=1
    )
    found = statistics.paired(np.array(values))
    sd = found.sd
    return Difference(
        baseline,
        [one.run.seed for one in shared],
        values,
        found.mean,
        sd,
        None if found.low is None or found.high is None else (found.low, found.high),
        statistics.bootstrap_interval(drawn),
        found.p,
        None,
        "",
        statistics.seeds_to_settle(found.mean, sd) if sd is not None else None,
        statistics.detectable(sd, len(shared)) if sd is not None else None,
    )


def _correct(rows: list[RowResult]) -> None:
    """Holm's correction over the rows that are compared with the same baseline, and the verdicts."""
    every = [one for row in rows for one in row.differences]
    for baseline in {one.baseline for one in every}:
        tested = [one for one in every if one.baseline == baseline and one.p is not None]
        for one, p_holm in zip(tested, statistics.holm([one.p for one in tested if one.p is not None]), strict=True):
            one.p_holm = p_holm
    for one in every:
        one.verdict = statistics.verdict(one.mean, one.interval, one.p_holm)


def _compare_cost(rows: list[RowResult]) -> None:
    unit = next((row.cost for row in rows if row.method == "kd" and not row.control and row.cost is not None), None)
    for row in rows:
        if row.cost is not None and unit is not None:
            row.cost.step_to_kd = row.cost.step_seconds / unit.step_seconds


def _class_changes(runs: list[_Finished], scratch: list[_Finished], name: str) -> dict[str, float]:
    theirs = {one.run.seed: one for one in scratch if one.run.row.name != name}
    shared = [one for one in runs if one.run.seed in theirs]
    if not shared:
        return {}
    return {
        label: means.mean(one.classes[label] - theirs[one.run.seed].classes[label] for one in shared)
        for label in shared[0].classes
    }


def _curves(rows: list[RowResult]) -> dict[str, list[tuple[float, float]]]:
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if not row.control and row.mean is not None:
            curves.setdefault(row.base, []).append((row.budget, row.mean))
    return {name: sorted(points) for name, points in curves.items() if len(points) > 1}


def _notes(finished: list[_Finished]) -> list[str]:
    notes = []
    for key, what in (
        ("code_fingerprint", "versions of this package's code"),
        ("torch", "versions of torch"),
        ("device", "kinds of devices"),
    ):
        different = {str(one.summary.get(key)) for one in finished}
        if len(different) > 1:
            notes.append(f"the runs were made by {len(different)} {what}")
    if any(one.run.row.control == "same-time" for one in finished):
        notes.append("same-time compares the time of training steps as they were measured during the runs")
    return notes
