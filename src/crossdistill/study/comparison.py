"""Run a study: what is missing of it, with any engine, and its results from all that is there."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from crossdistill.errors import UserError
from crossdistill.files import lock
from crossdistill.methods import load_method, parse_hyperparameters
from crossdistill.study.collection import collect
from crossdistill.study.engines import Engine, Outcome, one_after_another
from crossdistill.study.metrics import WITHOUT_LABELS, find_metric
from crossdistill.study.progress import Progress
from crossdistill.study.record import Record, has_record, join, read_record, write_record
from crossdistill.study.results import Results, save_results
from crossdistill.study.runs import Inputs, Run, is_damaged, is_finished, plan, remove, with_length
from crossdistill.study.shared import choose_memory_orders, with_shared_teacher
from crossdistill.study.study import Study
from crossdistill.study.tables import save_markdown
from crossdistill.study.tuned_rows import tune_rows
from crossdistill.study.workers import Workers
from crossdistill.training.ingredients import check_labels
from crossdistill.training.run import check_options

_LOCK = ".lock"


@dataclass
class Comparison:
    """What a call brought.

    Attributes:
        results: of all that is in the study's folder.
        failed: the runs of this call that came to no end, with the reason.
    """

    results: Results
    failed: list[Outcome] = field(default_factory=list)


def compare(
    study: Study,
    output: str | Path,
    *,
    jobs: int = 1,
    pairs: Iterable[str] | None = None,
    rows: Iterable[str] | None = None,
    rerun_damaged: bool = False,
    console: Console | None = None,
    engine: Engine | None = None,
    after_run: Callable[[], None] = lambda: None,
) -> Comparison:
    """Make the runs of a study that are not there yet, and compare all that are.

    Everything that can be refused is refused before anything is written. Writes `study.yaml`, `results.json` and
    `results.md` into the study's folder, beside the runs.

    Args:
        study: from `read_study` or `Study.from_dict`.
        output: its folder; one that was begun with the same study is gone on with, and may be given more rows, pairs
            and seeds.
        jobs: runs at once, each in a process of its own; the module that calls this with more than 1 must be
            importable without doing so (`if __name__ == "__main__":`).
        pairs: make the runs of these only; default: of all.
        rows: the same of rows.
        rerun_damaged: remove runs that cannot be read, and make them again.
        console: where to report; default: the standard output.
        engine: executes the runs; default: by `jobs`.
        after_run: called, in this process, when a run has ended, as by `report.LivePage`.

    Raises:
        UserError: a mistake in the study, or a folder with something else in it.
        KeyboardInterrupt: stopped by SIGINT or SIGTERM, after every run wrote a checkpoint.
    """
    folder = Path(output).expanduser()
    console = console or Console()
    if not str(output):
        raise UserError("--output is missing: name the folder that the study is written to")
    if not study.rows:
        raise UserError("there is nothing to compare: name methods (--methods scratch kd), or a study")
    if not study.seeds:
        raise UserError("there are no seeds: give --seeds")
    find_metric(study.metric)
    with _Lock(folder) as lock:
        record = _record(study, folder)
        runs = plan(record.study, folder, record)
        wanted = _chosen(study, runs, pairs, rows)
        _check(wanted)
        _mend([run for run in runs if run.folder.path.exists()], rerun_damaged)
        inputs = Inputs()
        known = _inputs(wanted, inputs, record, folder)
        _check_labels(wanted, record.study.metric, inputs)
        done = {run.name for run in runs if is_finished(run, inputs)}
        record.inputs |= known
        lock.take()
        write_record(record, folder)
        missing = [run for run in wanted if run.name not in done]
        found = choose_memory_orders(missing, record, folder, console)
        if record.study.tune_trials:
            found |= tune_rows(missing, record, folder, console)
        if found:
            now = {run.name: run for run in plan(record.study, folder, record)}
            missing = [now[run.name] for run in missing]
        failed: list[Outcome] = []
        if missing:
            there = [run.name for run in wanted if run.name in done]
            with Progress(console, len(missing), there, after_run) as progress:
                make = engine or (one_after_another if jobs == 1 else Workers(jobs))
                failed = _execute(missing, done, record, folder, make, progress)
        results = collect(folder)
        save_results(results, folder)
        save_markdown(results, folder)
    return Comparison(results, failed)


def _record(study: Study, folder: Path) -> Record:
    if has_record(folder):
        there = read_record(folder)
        return replace(there, study=join(there.study, study, folder))
    # Studies may lie in each other, as the quickstart's do.
    if folder.is_dir() and any(path.name != _LOCK and not has_record(path) for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty, and holds no study: choose another --output")
    return Record(study)


def _chosen(study: Study, runs: list[Run], pairs: Iterable[str] | None, rows: Iterable[str] | None) -> list[Run]:
    """The runs that this call asks for: those of the study, not of all that the folder was ever asked for."""
    asked = {(pair, row.name) for pair in study.pairs for row in study.rows_of(pair)}
    for kind, names, known in (("pairs", pairs, {p for p, _ in asked}), ("rows", rows, {row for _, row in asked})):
        for name in names or ():
            if name not in known:
                raise UserError(f"--{kind}: there is no '{name}'; there are {', '.join(sorted(known))}")
    pairs, rows = set(pairs or study.pairs), set(rows) if rows is not None else None
    return [
        run
        for run in runs
        if (run.pair, run.row.name) in asked
        and run.seed in study.seeds
        and run.pair in pairs
        and (rows is None or run.row.name in rows)
    ]


def _check(runs: list[Run]) -> None:
    for run in {(run.pair, run.row.name): run for run in runs}.values():
        try:
            check_options(run.options)
            if run.options.devices * run.options.nodes > 1:
                raise UserError("--devices: a run of a study has one device; --jobs makes runs on several at once")
            parse_hyperparameters(run.options.method)
        except UserError as error:
            raise UserError(f"{run.pair}/{run.row.name}: {error}") from error


def _check_labels(runs: list[Run], metric: str, inputs: Inputs) -> None:
    """Refuse rows and a metric that the images do not serve."""
    for run in {(run.pair, run.row.name): run for run in runs}.values():
        data = inputs.data(run.options)
        try:
            check_labels(data, load_method(run.options.method.name))
        except UserError as error:
            raise UserError(f"{run.pair}/{run.row.name}: {error}") from error
        if metric in ("top1", "top5") and not data.labelled:
            raise UserError(f"{data.name} has no labels, and the study judges by {metric}: {WITHOUT_LABELS}")
        if metric == "knn_top1" and not run.options.probe_data:
            raise UserError(f"{run.pair}/{run.row.name}: --metric knn_top1 is measured on --probe_data: give it")


def _mend(runs: list[Run], rerun_damaged: bool) -> None:
    for run in runs:
        reason = is_damaged(run)
        if reason and not rerun_damaged:
            raise UserError(f"the run in {run.folder.path} is damaged: {reason}; --rerun_damaged makes it again")
        if reason:
            remove(run)


def _inputs(runs: list[Run], inputs: Inputs, record: Record, folder: Path) -> dict[str, dict[str, str | None]]:
    """The inputs of rows whose teacher is there, which must be what they were when the study began."""
    known = {}
    for run in runs:
        name = f"{run.pair}/{run.row.name}"
        if name in known or run.teacher_row:
            continue
        known[name] = now = inputs.of(run)
        then = record.inputs.get(name, now)
        for kind in ("data", "teacher"):
            if then[kind] != now[kind]:
                what = "other images" if kind == "data" else "another teacher (other weights)"
                raise UserError(f"{folder} was begun with {what} for {name}: choose another --output")
    return known


def _execute(
    missing: list[Run], done: set[str], record: Record, folder: Path, engine: Engine, progress: Progress
) -> list[Outcome]:
    """Make runs, those first that others wait for; a run whose teacher could not be made has failed too."""
    failed: list[Outcome] = []
    waiting = list(missing)
    while waiting:
        names = {run.name for run in waiting}
        # Rows that name each other as teachers wait for ever, and are told so below.
        ready = [run for run in waiting if not _waits_for(run, waiting) & names] or waiting
        waiting = [run for run in waiting if run not in ready]
        possible = []
        for run in ready:
            try:
                prepared = _prepared(run, record, folder, done)
                share = record.study.share_teacher
                possible.append(with_shared_teacher(prepared, folder) if share else prepared)
            except UserError as error:
                failed.append(Outcome(run, {}, str(error)))
                progress.ended(failed[-1])
        for outcome in engine(possible, progress):
            if outcome.error:
                failed.append(outcome)
            else:
                done.add(outcome.run.name)
    return failed


def _waits_for(run: Run, runs: list[Run]) -> set[str]:
    if run.row.control == "same-time":
        return {one.name for one in runs if one.pair == run.pair and one.row.control != "same-time"}
    return {f"{run.pair}/{run.teacher_row}/{run.seed}"} if run.teacher_row else set()


def _prepared(run: Run, record: Record, folder: Path, done: set[str]) -> Run:
    """A run that needed others, now that these are there."""
    if run.teacher_row and not Path(run.options.teacher_weights).exists():
        raise UserError(f"its teacher, the run {run.pair}/{run.teacher_row}/{run.seed}, is not there")
    if run.row.control != "same-time":
        return run
    if run.pair not in record.same_time:
        record.same_time[run.pair] = _same_time(run, plan(record.study, folder), done)
        write_record(record, folder)
    length = record.same_time[run.pair]
    return replace(run, options=with_length(run.options, length["epochs"], length["max_steps"]))


def _same_time(run: Run, runs: list[Run], done: set[str]) -> dict[str, Any]:
    """How long scratch trains to take as long as the dearest row of its pair, by the steps as they were measured."""
    step: dict[str, float] = {}
    steps: dict[str, int] = {}
    rows = {one.row.name: one.row for one in runs if one.pair == run.pair}
    for name, row in rows.items():
        found = [
            one.folder.read_summary()
            for one in runs
            if one.pair == run.pair and one.row.name == name and one.name in done
        ]
        if found and not row.control and row.budget == 1:
            step[name] = statistics.median(summary["seconds"] / summary["steps"] for summary in found)
            steps[name] = found[0]["steps"]
    base = run.row.base
    if base not in step:
        raise UserError(f"it needs a finished run of {base}, whose time it is measured by")
    dearest = max(step, key=lambda name: step[name] * steps[name])
    factor = step[dearest] * steps[dearest] / (step[base] * steps[base])
    epochs, max_steps = run.options.epochs, run.options.max_steps
    return {
        "epochs": max(1, round(epochs * factor)),
        "max_steps": None if max_steps is None else max(1, round(max_steps * factor)),
        "factor": factor,
        "as_long_as": dearest,
    }


class _Lock:
    """Keeps another process from comparing in the same folder, while it is held."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: TextIO | None = None

    def __enter__(self) -> "_Lock":
        # A folder without a study is left as it is until all that can be refused was.
        if has_record(self.folder):
            self.take()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._file is not None:
            self._file.close()

    def take(self) -> None:
        """Make the folder and its lock, unless that was done.

        Raises:
            UserError: another process has it.
        """
        if self._file is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = (self.folder / _LOCK).open("w")
        if not lock(self._file, wait=False):
            raise UserError(f"another process compares in {self.folder}: wait for it, or choose another --output")
