"""The whole story in minutes on a CPU: a Vision Transformer taught to a small CNN, on images inside the package.

The teacher's weights ship with the package; `recipes/quickstart_teacher.yaml` made them. The student sees 2,000 images
of Fashion-MNIST and is judged on all 10,000 validation images.
"""

import time
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from crossdistill.errors import UserError
from crossdistill.options import MethodOptions, ModelOptions, TrainingOptions

DEFAULT_METHODS = ("scratch", "kd", "ofa")
_TIMED_STEPS = 3


def run(
    methods: Sequence[str] | None = None,
    output: str = "runs/quickstart",
    seed: int = 0,
    *,
    only_fitting: bool = False,
) -> list[dict[str, Any]]:
    """Train the student with each method and compare.

    A method that was run already is not trained again, and one that was interrupted goes on.

    Args:
        methods: names of methods; default: `DEFAULT_METHODS`.
        output: each method's run folder is made in this one.
        seed: of everything random.
        only_fitting: leave out the methods that do not fit the pair, and say why, instead of refusing.

    Returns:
        The summary of each run, in order.

    Raises:
        UserError: a method does not fit the pair.
    """
    from crossdistill.train import run as train

    console = Console()
    names = list(methods or DEFAULT_METHODS)
    with as_file(files("crossdistill") / "assets" / "fashion_vit.safetensors") as teacher:
        recipes = {name: recipe(name, str(teacher), f"{output}/{name}", seed) for name in names}
        seconds = 0.0
        for name in names:
            try:
                seconds += _estimate(recipes[name])
            except UserError as error:
                if not only_fitting:
                    raise
                console.print(f"left out: {error}", soft_wrap=True)
                del recipes[name]
        minutes = max(1, round(seconds / 60))
        console.print(f"{len(recipes)} runs: {', '.join(recipes)}; about {minutes} min on this machine")
        summaries = []
        for name, options in recipes.items():
            console.rule(name)
            options.resume = (Path(options.output) / "recipe.yaml").exists()
            summaries.append(train(options, console))
    console.print(_table(summaries, output))
    return summaries


def recipe(method: str, teacher: str, output: str, seed: int) -> TrainingOptions:
    """The quickstart's recipe: the same for every method but for the method itself.

    Args:
        method: its name.
        teacher: file with the teacher's weights.
        output: run folder.
        seed: of everything random.
    """
    # KD's temperature was chosen on other images (recipes/fashion_students.py); OFA's authors weight its stages so on
    # small images.
    kwargs: dict[str, dict[str, Any]] = {"kd": {"temperature": 2.0}, "ofa": {"stage_weight": 0.1}}
    return TrainingOptions(
        output=output,
        data="fashion-mini",
        student=ModelOptions("test_resnet"),
        teacher_weights=teacher,
        method=MethodOptions(method, kwargs.get(method, {})),
        epochs=24,
        learning_rate=5e-3,
        crop="none",
        seed=seed,
        evaluate_every=12,
        log_every=30,
    )


def _estimate(options: TrainingOptions) -> float:
    """Seconds that a run will take here: a few steps, timed, times the number of steps."""
    import torch

    from crossdistill.data import open_data
    from crossdistill.methods import build_distiller
    from crossdistill.train.training import build_models

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
