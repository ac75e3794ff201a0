"""What the studies of docs/results.md share: run every method with every seed under one recipe, and print one table.

KD's temperature is chosen from 1, 2, 4 in runs of a third of the length, with seed 0, on images that are neither the
student's nor those that are reported. `scratch-long` is scratch with so many more epochs that it takes as long as the
dearest method. Runs that are there already are not run again, so that a table can be made in several sittings.
"""

import json
import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from crossdistill.methods import METHODS
from crossdistill.options import TrainingOptions
from crossdistill.training import distill

# Of a method, a run folder and a seed.
Recipe = Callable[[str, str, int], TrainingOptions]

_TEMPERATURES = (1.0, 2.0, 4.0)
_LONG = "scratch-long"


def parse(parser: ArgumentParser, pairs: Sequence[str], images: str, variants: Sequence[str] = ()) -> Namespace:
    """The options of every study.

    Args:
        parser: has the study's own.
        pairs: what `--pairs` takes.
        images: the option that names a folder of images.
        variants: names of rows that the study has beside the methods.
    """
    parser.add_argument("--pairs", nargs="+", choices=pairs, default=list(pairs))
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=[*METHODS, *variants, _LONG],
        help=f"default: all that fit the pair, and {_LONG}",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    folder = getattr(arguments, images)
    if not folder.is_dir():
        parser.error(f"--{images} {folder}: there is no such folder")
    return arguments


def print_table(recipe: Recipe, methods: Sequence[str], output: Path, arguments: Namespace, held_out: str) -> None:
    """Run what is missing and print the Markdown table of all runs that are in the folder.

    Args:
        recipe: makes the options of a run.
        methods: every method that fits the pair.
        output: folder of the runs.
        arguments: `--methods` and `--seeds`.
        held_out: data whose training images are the student's and whose validation images are others of the teacher's
            training images; they choose KD's temperature.
    """
    rows = [*methods, _LONG]
    chosen = [method for method in rows if method in (arguments.methods or rows)]
    temperature = None
    if "kd" in chosen:
        temperature = _choose_temperature(recipe, output, held_out)
    for seed in arguments.seeds:
        for method in chosen:
            if method != _LONG:
                run_missing(recipe, method, output / f"{method}-{seed}", seed, temperature)
    if _LONG in chosen and summaries(output, "scratch"):
        length = _dearest(methods, output)
        for seed in arguments.seeds:
            run_missing(recipe, "scratch", output / f"{_LONG}-{seed}", seed, length=length)
    print(f"\n{output.name}", flush=True)
    print(markdown({method: summaries(output, method) for method in rows}), flush=True)


def run_missing(
    recipe: Recipe,
    method: str,
    output: Path,
    seed: int,
    temperature: float | None = None,
    *,
    data: str | None = None,
    length: float = 1.0,
    evaluate_every: int | None = None,
) -> dict[str, Any]:
    """The summary of a run, which is made unless it is there.

    Args:
        recipe: makes the options.
        method: its name.
        output: run folder.
        seed: of everything random.
        temperature: KD's.
        data: what to train on and judge by; default: the recipe's.
        length: factor on the recipe's epochs.
        evaluate_every: epochs; default: only at the end.
    """
    if (output / "summary.json").exists():
        return json.loads((output / "summary.json").read_text())
    options = recipe(method, str(output), seed)
    options.data = data or options.data
    if method == "kd" and temperature:
        options.method.kwargs["temperature"] = temperature
    options.epochs = max(1, round(options.epochs * length))
    options.evaluate_every = evaluate_every or options.epochs
    options.resume = (output / "recipe.yaml").exists()
    return distill(options, Console(quiet=True))


def summaries(output: Path, method: str) -> dict[int, dict[str, Any]]:
    """The finished runs of a method by seed."""
    found = {}
    for file in sorted(output.glob(f"{method}-[0-9]*/summary.json")):
        found[int(file.parent.name.rpartition("-")[2])] = json.loads(file.read_text())
    return found


def markdown(runs: dict[str, dict[int, dict[str, Any]]]) -> str:
    """A table; gains are means over the seeds that scratch has too, times are relative to KD's where it was run."""
    lines = [
        "| method | top-1 % of each seed | mean | spread | gain | agrees with teacher % | time of a run |",
        "|---|---|---|---|---|---|---|",
    ]
    scratch = runs.get("scratch", {})
    unit = _seconds(runs["kd"]) if runs.get("kd") else None
    for method, by_seed in runs.items():
        if not by_seed:
            continue
        top1 = [summary["top1"] for summary in by_seed.values()]
        gains = [summary["top1"] - scratch[seed]["top1"] for seed, summary in by_seed.items() if seed in scratch]
        seconds = _seconds(by_seed)
        cells = (
            method,
            " ".join(f"{value:.2f}" for value in top1),
            f"{statistics.mean(top1):.2f}",
            f"{statistics.stdev(top1):.2f}" if len(top1) > 1 else "",
            f"{statistics.mean(gains):+.2f}" if gains and method != "scratch" else "",
            f"{statistics.mean(summary['teacher_agreement'] for summary in by_seed.values()):.2f}",
            f"{seconds / unit:.1f} x KD" if unit else f"{seconds:.0f} s",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _choose_temperature(recipe: Recipe, output: Path, held_out: str) -> float:
    top1 = {
        t: run_missing(recipe, "kd", output / f"choose-{t:g}", 0, t, data=held_out, length=1 / 3)["top1"]
        for t in _TEMPERATURES
    }
    told = ", ".join(f"T = {t:g}: {value:.2f}" for t, value in top1.items())
    print(f"{output.name}: held-out top-1 of KD at {told}", flush=True)
    return max(top1, key=lambda t: top1[t])


def _dearest(methods: Sequence[str], output: Path) -> float:
    """How many times as long as scratch the dearest method takes."""
    seconds = {method: _seconds(done) for method in methods if (done := summaries(output, method))}
    return max(seconds.values()) / seconds["scratch"]


def _seconds(by_seed: dict[int, dict[str, Any]]) -> float:
    return statistics.mean(summary["seconds"] for summary in by_seed.values())
