"""The tables of a study: on a terminal, and as Markdown."""

from pathlib import Path

from rich.table import Table

from crossdistill.files import written_whole
from crossdistill.study.results import Difference, PairResult, Results, RowResult

_FILE = "results.md"


def table(results: Results, pair: PairResult) -> Table:
    """The table of a pair, for `rich.print`."""
    header, *rows = cells(results, pair)
    shown = Table(title=title(pair), title_justify="left")
    for k, column in enumerate(header):
        shown.add_column(column, justify="right" if k else "left", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    return shown


def lines_below(results: Results) -> list[str]:
    """What must be said beside the tables: what is missing, curves and notes."""
    lines = []
    for pair in results.pairs:
        lines += [f"{pair.name}/{row.name}: {row.note}" for row in pair.rows if row.note]
        for name, points in pair.curves.items():
            curve = ", ".join(f"{value:.2f} at {factor:g}x" for factor, value in points)
            lines.append(f"{pair.name}/{name}: {results.metric_title} {curve} of the steps")
    lines += results.notes
    if results.missing:
        shown = ", ".join(results.missing[:8]) + (", ..." if len(results.missing) > 8 else "")
        lines.append(f"not run: {len(results.missing)} of the study's runs ({shown})")
    return lines


def markdown(results: Results) -> str:
    """All that a reader needs, as Markdown."""
    parts = [f"# {results.question}" if results.question else "# Comparison"]
    for pair in results.pairs:
        parts += [f"## {title(pair)}", _grid(cells(results, pair)), _grid(details(pair))]
        changes = [line for row in pair.rows if (line := _changes(row))]
        if changes:
            parts.append("\n".join(changes))
    if lines := lines_below(results):
        parts.append("\n".join(f"- {line}" for line in lines))
    parts.append(LEGEND)
    return "\n\n".join(parts) + "\n"


def save_markdown(results: Results, folder: Path) -> None:
    """Write `results.md` into a study's folder."""
    with written_whole(folder / _FILE) as beside:
        beside.write_text(markdown(results))


LEGEND = """Means over seeds; behind ± the standard deviation over seeds. A difference is the mean of the differences
between runs of the same seed, with its 95 % interval by Student's t over seeds; "level": the interval covers 0; "not
after Holm": it does not, but Holm's correction for the rows of the table takes that back. "Seeds and images": the 95 %
interval by a bootstrap over both. "Would settle": seeds with which a difference of this size and spread would be found
in 80 % of studies. ECE: expected calibration error."""


def title(pair: PairResult) -> str:
    """Student, teacher and data of a pair in one line."""
    teacher = "no teacher"
    if pair.teacher is not None:
        top1 = "" if pair.teacher_top1 is None else f" ({pair.teacher_top1:.2f} %)"
        teacher = f"taught by {pair.teacher}{top1}"
    size = f"{pair.student_parameters / 1e6:.2f} M parameters"
    return f"{pair.name}: {pair.student} ({size}) {teacher} on {pair.data}, {pair.train_images:,} training images"


def cells(results: Results, pair: PairResult) -> list[list[str]]:
    """The main table, header first."""
    named = (one.baseline.removesuffix(f"-x{row.budget:g}") for row in pair.rows for one in row.differences)
    baselines = list(dict.fromkeys(named))
    # Of the whole study, so that its tables have one shape.
    published = any(row.published is not None for one in results.pairs for row in one.rows)
    header = ["row", "seeds", results.metric_title, *(["published %"] if published else [])]
    lines = [[*header, *(f"to {baseline}" for baseline in baselines), "agrees with teacher %", "step, x KD"]]
    for row in pair.rows:
        line = [row.name, str(len(row.runs)), "not run" if row.mean is None else _spread(row.mean, row.sd)]
        if published:
            line.append("" if row.published is None else f"{row.published:.2f}")
        line += [_interval(row.difference(baseline)) for baseline in baselines]
        ratio = row.cost.step_to_kd if row.cost is not None else None
        line.append("" if row.agreement is None else f"{row.agreement.all:.2f}")
        line.append("" if ratio is None else f"{ratio:.2f}")
        lines.append(line)
    return lines


def details(pair: PairResult) -> list[list[str]]:
    """What a reader looks at second."""
    header = ["row", "each seed", "seeds and images", "would settle", "agrees where teacher is right, wrong %", "ECE %"]
    lines = [[*header, "s a run", "ms a step", "extra parameters", "peak MiB"]]
    for row in pair.rows:
        if row.cost is None:
            continue
        first = row.differences[0] if row.differences else None
        parts = (row.agreement.teacher_right, row.agreement.teacher_wrong) if row.agreement is not None else ()
        line = [
            row.name,
            " ".join(f"{run.value:.2f}" for run in row.runs),
            "" if first is None else f"[{first.bootstrap[0]:+.2f}, {first.bootstrap[1]:+.2f}] to {first.baseline}",
            "" if first is None or first.sd is None else _seeds(first),
            ", ".join("-" if part is None else f"{part:.1f}" for part in parts),
            "" if row.calibration_error is None else f"{row.calibration_error:.1f}",
            f"{row.cost.seconds:.0f}",
            f"{1000 * row.cost.step_seconds:.0f}",
            f"{row.cost.extra_parameters:,}",
            f"{row.cost.peak_memory_bytes / 2**20:.0f}",
        ]
        lines.append(line)
    return lines


def _changes(row: RowResult) -> str:
    """The classes that gain and lose most against scratch."""
    if len(row.class_changes) < 2:
        return ""
    ordered = sorted(row.class_changes.items(), key=lambda item: item[1])
    (worst, least), (best, most) = ordered[0], ordered[-1]
    return f"- {row.name} to scratch by class: from {worst} {least:+.1f} to {best} {most:+.1f}"


def _spread(mean: float, sd: float | None) -> str:
    return f"{mean:.2f}" if sd is None else f"{mean:.2f} ± {sd:.2f}"


def _interval(difference: Difference | None) -> str:
    if difference is None:
        return ""
    if difference.interval is None:
        return f"{difference.mean:+.2f} ({difference.verdict})"
    low, high = difference.interval
    return f"{difference.mean:+.2f} [{low:+.2f}, {high:+.2f}] {difference.verdict}"


def _seeds(difference: Difference) -> str:
    return "> 1000" if difference.seeds_to_settle is None else str(difference.seeds_to_settle)


def _grid(cells: list[list[str]]) -> str:
    header, *rows = cells
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
