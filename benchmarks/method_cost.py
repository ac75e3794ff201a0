"""What each method costs for a pair: parameters, multiply-accumulates, time and memory of a training step, beside KD.

    python benchmarks/method_cost.py --teacher vit_small_patch16_224 --student resnet18
    python benchmarks/method_cost.py --runs runs/cifar10_students/vit-cnn/{scratch,kd,fbt}/0

The first form has the methods' default hyper-parameters; the second has models, hyper-parameters and batch size of
finished runs. Both train on noise. The methods take turns, step by step, in one process, so that whatever else the
machine does falls on all of them; the medians are printed as multiples of KD's. Peak memory is that of a process of its
own for each method, torch included. Prints a Markdown table; a method that does not fit the pair is left out, with the
reason.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from side_by_side import peaks, take_turns

from crossdistill.analysis.inspection import price
from crossdistill.analysis.timing import TrainingStep
from crossdistill.data import open_data
from crossdistill.methods import METHODS, build_distiller
from crossdistill.models import build_model
from crossdistill.options import MethodOptions, ModelOptions
from crossdistill.staged import StagedModel
from crossdistill.training.devices import peak_memory
from crossdistill.training.ingredients import build_models
from crossdistill.training.run_folder import load_recipe

CLASSES = 100
STEPS_FOR_MEMORY = 3


@dataclass(frozen=True)
class Case:
    """What is measured: a method on new models of its own."""

    method: MethodOptions
    models: Callable[[], tuple[StagedModel, StagedModel | None]]
    batch_size: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher")
    parser.add_argument("--student")
    parser.add_argument("--image_size", type=int, default=224, help="side in pixels")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--runs", type=Path, nargs="+", help="run folders, instead of all of these")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each method")
    parser.add_argument("--peak_memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.runs and not (arguments.teacher and arguments.student):
        parser.error("give --teacher and --student, or --runs")
    cases = _cases(arguments)
    if arguments.peak_memory:
        print(json.dumps(_peak_memory(cases[arguments.peak_memory])))
        return

    costs = {}
    for name, case in cases.items():
        student, teacher = case.models()
        assert teacher is not None
        costs[name] = price(case.method, teacher, student)
    fitting = [name for name, cost in costs.items() if not cost.refusal]
    seconds = take_turns({name: _step(cases[name]) for name in fitting}, arguments.rounds)
    memory = peaks(fitting)
    base = next((name for name in fitting if cases[name].method.name == "kd"), fitting[0])
    size = "x".join(str(side) for side in student.image_size)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{teacher.name} -> {student.name}, {size} px, batches of {cases[base].batch_size}, {device}, "
          f"torch {torch.__version__}; {base}: {1000 * seconds[base]:.0f} ms a step, "
          f"{memory[base] / 2**20:.0f} MiB\n")  # fmt: skip
    print("| method | extra parameters | multiply-accumulates of a step's forward | step time | peak memory |")
    print("|---|---|---|---|---|")
    for name, cost in costs.items():
        if cost.refusal:
            print(f"| {name} | does not fit | | | |")
            continue
        print(f"| {name} | {cost.extra_parameters / 1e6:.2f} M | {cost.macs / 1e9:.4g} G | "
              f"{seconds[name] / seconds[base]:.2f} | {memory[name] / memory[base]:.2f} |")  # fmt: skip
    for name, cost in costs.items():
        if cost.refusal:
            print(f"\n{name}: {cost.refusal}")


def _cases(arguments: argparse.Namespace) -> dict[str, Case]:
    """By the name of its row."""
    if not arguments.runs:
        return {
            name: Case(MethodOptions(name), lambda: _models(arguments), arguments.batch_size)
            for name in arguments.methods
        }
    cases = {}
    # The runs of a study share their data.
    opened = cache(open_data)
    for folder in arguments.runs:
        options = load_recipe(folder / "recipe.yaml")
        models = partial(build_models, options, opened(options.data))
        # A study's run folders are called ROW/SEED.
        name = folder.parent.name if folder.name.isdecimal() else folder.name
        cases[name] = Case(options.method, models, options.batch_size // options.accumulate)
    return cases


def _models(arguments: argparse.Namespace) -> tuple[StagedModel, StagedModel]:
    size = (arguments.image_size, arguments.image_size)
    student, teacher = (
        build_model(ModelOptions(name), num_classes=CLASSES, image_size=size, role=role)
        for name, role in ((arguments.student, "student"), (arguments.teacher, "teacher"))
    )
    return student, teacher


def _step(case: Case) -> TrainingStep:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    student, teacher = case.models()
    distiller = build_distiller(case.method, student, teacher, train_size=1000)
    return TrainingStep(distiller.to(device), case.batch_size)


def _peak_memory(case: Case) -> int:
    step = _step(case)
    for _ in range(STEPS_FOR_MEMORY):
        step()
    return peak_memory(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


if __name__ == "__main__":
    main()
