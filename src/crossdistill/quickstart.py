"""The whole story in minutes on a CPU: a Vision Transformer taught to a small CNN, on images inside the package.

The teachers' weights ship with the package; recipes/quickstart_teacher.yaml, quickstart_teacher_longer.yaml and
fashion_cnn_teacher.yaml made them. The student sees 2,000 images of Fashion-MNIST and is judged on all 10,000
validation images. CSKD, which learns from a CNN, is shown on a second pair, a CNN and a Vision Transformer.
"""

import dataclasses
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from crossdistill.options import MethodOptions, ModelOptions, TrainingOptions

DEFAULT_METHODS = ("scratch", "kd", "pat")
_EPOCHS = 14
_TIMED_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Pair:
    """A teacher that ships with the package and a student.

    Args:
        teacher: its file in the package's assets.
        student: the model that is trained.
        learning_rate: peak rate that suits the student.
    """

    teacher: str
    student: ModelOptions
    learning_rate: float


PAIRS = {
    "vit-cnn": Pair("fashion_vit.safetensors", ModelOptions("test_resnet"), 5e-3),
    "cnn-vit": Pair(
        "fashion_cnn.safetensors",
        ModelOptions(
            "deit_tiny_distilled_patch16_224",
            {"img_size": 32, "patch_size": 8, "embed_dim": 96, "depth": 6, "num_heads": 3},
        ),
        2e-3,
    ),
}


def run(methods: Sequence[str] | None = None, output: str = "runs/quickstart", seed: int = 0) -> list[dict[str, Any]]:
    """Train the student with each method and compare.

    A method that was run already is not trained again, and one that was interrupted goes on.

    Args:
        methods: names of methods; default: `DEFAULT_METHODS`.
        output: each method's run folder is made in this one, or in one named after the second pair.
        seed: of everything random.

    Returns:
        The summary of each run, pair by pair.
    """
    from crossdistill.training import distill

    console = Console()
    # A result of another seed or recipe must not be shown as this one's. The teacher's file may lie elsewhere after an
    # installation anew.
    asked_for = {field.name for field in dataclasses.fields(TrainingOptions)} - {"teacher_weights"}
    with ExitStack() as stack:
        recipes: dict[str, list[TrainingOptions]] = {}
        for name, chosen in _by_pair(methods or DEFAULT_METHODS).items():
            asset = files("crossdistill") / "assets" / PAIRS[name].teacher
            teacher = str(stack.enter_context(as_file(asset)))
            folder = output if name == "vit-cnn" else f"{output}/{name}"
            recipes[name] = [recipe(method, teacher, f"{folder}/{method}", seed, PAIRS[name]) for method in chosen]
        every = [options for runs in recipes.values() for options in runs]
        minutes = max(1, round(sum(_estimate(options) for options in every) / 60))
        console.print(
            f"{len(every)} runs: {', '.join(options.method.name for options in every)}; "
            f"about {minutes} min on this machine"
        )
        tables, summaries = [], []
        for runs in recipes.values():
            done = []
            for options in runs:
                console.rule(options.method.name)
                options.resume = (Path(options.output) / "recipe.yaml").exists()
                done.append(distill(options, console, given=asked_for))
            tables.append(_table(done, str(Path(runs[0].output).parent)))
            summaries += done
    for table in tables:
        console.print(table)
    return summaries


def _by_pair(methods: Sequence[str]) -> dict[str, list[str]]:
    """The methods to run on each pair; the second one has its own baselines, or its gains would mean nothing."""
    chosen = {"vit-cnn": [name for name in methods if name != "cskd"]}
    if "cskd" in methods:
        chosen["cnn-vit"] = ["scratch", "kd", "cskd"]
    return {pair: names for pair, names in chosen.items() if names}


def recipe(method: str, teacher: str, output: str, seed: int, pair: Pair = PAIRS["vit-cnn"]) -> TrainingOptions:
    """The quickstart's recipe: the same for every method but for the method itself.

    Args:
        method: its name.
        teacher: file with the teacher's weights.
        output: run folder.
        seed: of everything random.
        pair: the student and its learning rate.
    """
    # On held-out images KD's temperatures of 1 and 2 are level. OFA's authors weight its stages so on small images.
    # PAT's 512 channels would be ten times the work of these models of 32 to 192, and prompts at every stage would
    # double the time for nothing (docs/results.md).
    kwargs: dict[str, dict[str, Any]] = {
        "kd": {"temperature": 2.0},
        "ofa": {"stage_weight": 0.1},
        "pat": {"temperature": 2.0, "width": 128, "heads": 4, "prompt_stages": [4]},
    }
    return TrainingOptions(
        output=output,
        data="fashion-mini",
        student=pair.student,
        teacher_weights=teacher,
        method=MethodOptions(method, kwargs.get(method, {})),
        epochs=_EPOCHS,
        learning_rate=pair.learning_rate,
        crop="none",
        seed=seed,
        evaluate_every=_EPOCHS,
        log_every=30,
    )


def _estimate(options: TrainingOptions) -> float:
    """Seconds that a run will take here: a few steps, timed, times the number of steps."""
    import torch

    from crossdistill.data import open_data
    from crossdistill.methods import build_distiller
    from crossdistill.training.ingredients import build_models

    data = open_data(options.data)
    student, teacher = build_models(options, data)
    distiller = build_distiller(options.method, student, teacher, train_size=len(data.train)).train()
    images = torch.rand(options.batch_size, 3, *student.image_size)
    labels = torch.randint(len(data.classes), (options.batch_size,))
    for step in range(_TIMED_STEPS + 1):
        if step == 1:
            started = time.perf_counter()
        terms = distiller(images, labels, indices=torch.arange(options.batch_size))
        torch.stack(list(terms.values())).sum().backward()
    steps = options.epochs * (len(data.train) // options.batch_size)
    return (time.perf_counter() - started) / _TIMED_STEPS * steps


def _table(summaries: list[dict[str, Any]], output: str) -> Table:
    first = summaries[0]
    table = Table(
        title=f"{first['student']} ({first['student_params'] / 1e6:.2f} M parameters) on {first['data']}; "
        f"teacher {first['teacher']}, {first['teacher_top1']:.2f} %",
        caption=f"each run's student, metrics and recipe: {output}/METHOD/",
    )
    for column in ("method", "top-1 %", "gain", "agrees with teacher %", "extra parameters", "seconds"):
        table.add_column(column, justify="left" if column == "method" else "right")
    scratch = next((summary["top1"] for summary in summaries if summary["method"] == "scratch"), None)
    for summary in summaries:
        table.add_row(
            summary["method"],
            f"{summary['top1']:.2f}",
            f"{summary['top1'] - scratch:+.2f}" if scratch is not None and summary["method"] != "scratch" else "",
            f"{summary['teacher_agreement']:.2f}",
            f"{summary['extra_params']:,}",
            f"{summary['seconds']:.0f}",
        )
    return table
