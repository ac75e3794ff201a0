"""What came out, as sentences."""

from typing import Any

from crossdistill.analysis.inspection import duration, short_count
from crossdistill.study.results import Difference, PairResult, Results, RowResult
from crossdistill.training.summary import TITLES


def leader(pair: PairResult, *, but: str = "") -> RowResult | None:
    """The row with the highest mean, but for one; controls and other budgets do not stand for election."""
    return max((row for row in _candidates(pair) if row.base != but), key=lambda row: row.mean or 0.0, default=None)


def answer_of_study(results: Results, pair: PairResult) -> list[str]:
    """Which row leads, by how much and at what cost."""
    best = leader(pair)
    if best is None or best.cost is None or best.mean is None:
        return ["No run of a row is finished yet."]
    metric = results.metric_title.removesuffix(" %")
    seeds = len(best.runs)
    spread = f"the mean over {seeds} seeds (standard deviation {best.sd:.2f})" if best.sd is not None else "by one seed"
    sentences = [f"{best.name} reaches the highest {metric}: {best.mean:.2f} %, {spread}."]
    if pair.teacher_top1 is not None:
        sentences[0] += f" The teacher has {pair.teacher_top1:.2f} % top-1."
    if best.differences:
        sentences += [_compared(best.name, one) for one in best.differences]
    elif len(pair.rows) > 1:
        sentences.append(f"No row is above {best.name}.")
    sentences.append(_cost(best, pair))
    sentences += [
        f"The control {row.name} reaches more, {row.mean:.2f} %{f': {row.note}' if row.note else ''}."
        for row in pair.rows
        if row.control and row.mean is not None and row.mean > best.mean
    ]
    return sentences


def note_on_leaders(pair: PairResult) -> str:
    """What must be thought of when the highest of several means is looked at; "" for a single row."""
    rows = _candidates(pair)
    notes = []
    if len({tuple(run.seed for run in row.runs) for row in rows}) > 1:
        notes.append("The rows do not have the same seeds yet: only their differences are of the same seeds.")
    if len(rows) > 2:
        notes.append(f"The highest of {len(rows)} means is flattered by chance; other seeds would tell.")
    return " ".join(notes)


def _candidates(pair: PairResult) -> list[RowResult]:
    rows = [row for row in pair.rows if row.mean is not None and not row.control]
    budgets = {row.budget for row in rows}
    budget = 1 if 1 in budgets else min(budgets, default=1)
    return [row for row in rows if row.budget == budget]


def _compared(name: str, found: Difference) -> str:
    points = f"{abs(found.mean):.2f} points {'above' if found.mean >= 0 else 'below'} {found.baseline}"
    if found.interval is None:
        return f"That is {points}, by one seed each, which does not tell a gain from noise."
    interval = f"95 % interval {found.interval[0]:+.2f} to {found.interval[1]:+.2f}"
    if found.verdict == "level":
        more = ""
        if found.seeds_to_settle is not None:
            more = f" If the difference is real, about {found.seeds_to_settle} seeds would show it"
            more += f", by the spread of these {len(found.seeds)}."
        return f"{name} and {found.baseline} are level: {points} ({interval}, which covers 0).{more}"
    after = " Holm's correction for all rows takes that back." if found.verdict.endswith("Holm") else ""
    return f"That is {points} ({interval}).{after}"


def _cost(row: RowResult, pair: PairResult) -> str:
    assert row.cost is not None
    said = f"A run of {row.name} trains for {duration(row.cost.seconds)}"
    scratch = next((one.cost for one in pair.rows if one.name == "scratch" and one is not row), None)
    if scratch is not None:
        said += f", {row.cost.seconds / scratch.seconds:.1f} times as long as scratch"
    if row.cost.step_to_kd is not None and row.method != "kd":
        said += f" (a step: {row.cost.step_to_kd:.2f} times KD's)"
    if row.cost.extra_parameters:
        said += f", with {row.cost.extra_parameters:,} parameters that only training needs"
    return said + "."


def answer_of_run(summary: dict[str, Any], agreement: tuple[float, float | None, float | None] | None) -> list[str]:
    """What the student reaches, beside its teacher, and what it costs.

    Args:
        summary: of the run.
        agreement: with the teacher in percent: of all images, where the teacher is right, where it is wrong.
    """
    images = f"{summary['validation_images']:,} validation images"
    reached = (
        f"reaches {summary['top1']:.2f} % top-1" if summary["top1"] is not None else f"comes to {_judged(summary)}"
    )
    sentences = [
        f"{summary['student']} {reached} on {images} of {summary['data']}, trained with "
        f"{summary['method']} for {_counted(summary['epochs'], 'epoch')}."
    ]
    if summary["top1"] is None:
        sentences.append("The images have no labels, so that nothing is known of its accuracy on them.")
    if summary.get("knn_top1") is not None:
        sentences.append(f"By their nearest neighbours {summary['knn_top1']:.2f} % of the probe's images are right.")
    if summary["teacher_top1"] is not None:
        distance = summary["top1"] - summary["teacher_top1"]
        beside = f"{abs(distance):.2f} points {'above' if distance >= 0 else 'below'} it"
        sentences.append(
            f"Its teacher, {summary['teacher']}, has {summary['teacher_top1']:.2f} %: the student is {beside}."
        )
    if agreement is not None and summary["top1"] is not None:
        every, right, wrong = agreement
        parts = [
            f"{share:.1f} % of those that the teacher gets {word}"
            for share, word in ((right, "right"), (wrong, "wrong"))
            if share is not None
        ]
        sentences.append(f"They answer alike on {every:.2f} % of the images: {' and '.join(parts)}.")
    size = f"The student has {short_count(summary['student_params'])} parameters"
    if summary.get("teacher_params"):
        size += f", the teacher {short_count(summary['teacher_params'])}"
    memory = f"{summary['peak_memory_bytes'] / 2**20:,.0f} MiB"
    sentences.append(
        f"{size}. Training took {duration(summary['seconds'])} on {summary['device']}, with {memory} at most."
    )
    return sentences


def _judged(summary: dict[str, Any]) -> str:
    name = summary.get("judged_by")
    return "no value that was measured" if name is None else f"{summary[name]:.2f} % {TITLES[name]}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
