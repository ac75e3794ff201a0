"""What each method costs for a pair: parameters, multiply-accumulates, time and memory of a training step, beside KD.

    python benchmarks/method_cost.py --teacher vit_small_patch16_224 --student resnet18
    python benchmarks/method_cost.py --teacher resnet18 --student deit_tiny_distilled_patch16_224

The methods take turns, step by step, in one process, so that whatever else the machine does falls on all of them; the
medians are printed as multiples of KD's. Peak memory is that of a process of its own for each method, torch included.
Prints a Markdown table; a method that does not fit the pair is left out, with the reason.
"""

import argparse
import json
from collections.abc import Callable

import torch
from side_by_side import peaks, take_turns

from crossdistill.inspection import inspect_pair
from crossdistill.methods import METHODS, build_distiller
from crossdistill.models import build_model
from crossdistill.options import MethodOptions, ModelOptions
from crossdistill.staged import StagedModel
from crossdistill.train.fabric import peak_memory

CLASSES = 100
STEPS_FOR_MEMORY = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--image_size", type=int, default=224, help="side in pixels")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each method")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--peak_memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_memory:
        print(json.dumps(_peak_memory(arguments)))
        return

    student, teacher = _models(arguments)
    costs = inspect_pair(teacher, student, arguments.methods).methods
    fitting = [cost.name for cost in costs if not cost.refusal]
    seconds = take_turns({name: _step(name, arguments) for name in fitting}, arguments.rounds)
    memory = peaks(fitting)
    base = "kd" if "kd" in fitting else fitting[0]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{arguments.teacher} -> {arguments.student}, {arguments.image_size} px, batches of {arguments.batch_size}, "
          f"{device}, torch {torch.__version__}; {base}: {1000 * seconds[base]:.0f} ms a step\n")  # fmt: skip
    print("| method | extra parameters | multiply-accumulates of a step's forward | step time | peak memory |")
    print("|---|---|---|---|---|")
    for cost in costs:
        if cost.refusal:
            print(f"| {cost.name} | does not fit | | | |")
            continue
        print(f"| {cost.name} | {cost.extra_parameters / 1e6:.2f} M | {cost.macs / 1e9:.2f} G | "
              f"{seconds[cost.name] / seconds[base]:.2f} | {memory[cost.name] / memory[base]:.2f} |")  # fmt: skip
    for cost in costs:
        if cost.refusal:
            print(f"\n{cost.name}: {cost.refusal}")


def _models(arguments: argparse.Namespace) -> tuple[StagedModel, StagedModel]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    size = (arguments.image_size, arguments.image_size)
    student, teacher = (
        build_model(ModelOptions(name), num_classes=CLASSES, image_size=size, role=role).to(device)
        for name, role in ((arguments.student, "student"), (arguments.teacher, "teacher"))
    )
    return student, teacher


def _step(method: str, arguments: argparse.Namespace) -> Callable[[], None]:
    """A training step on noise, models of its own; the critic's step comes as often as the method asks for it."""
    student, teacher = _models(arguments)
    distiller = build_distiller(MethodOptions(method), student, teacher, train_size=1000)
    device = next(student.parameters()).device
    distiller.to(device).train()
    if distiller.critic is not None:
        distiller.critic.to(device)
    images = torch.rand(arguments.batch_size, 3, *student.image_size, device=device)
    labels = torch.arange(arguments.batch_size, device=device) % CLASSES
    indices = torch.arange(arguments.batch_size, device=device)
    distiller.prepare([images])
    optimizer = torch.optim.AdamW([p for p in distiller.parameters() if p.requires_grad], lr=1e-4)
    critic_optimizer = distiller.critic_optimizer() if distiller.critic is not None else None
    done = 0

    def run() -> None:
        nonlocal done
        terms = distiller(images, labels, indices=indices)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        done += 1
        if critic_optimizer is not None and done % distiller.critic_every == 0:
            assert distiller.critic is not None and distiller.critic_batch is not None
            distiller.critic(*distiller.critic_batch).backward()
            critic_optimizer.step()
            critic_optimizer.zero_grad()

    return run


def _peak_memory(arguments: argparse.Namespace) -> int:
    step = _step(arguments.peak_memory, arguments)
    for _ in range(STEPS_FOR_MEMORY):
        step()
    return peak_memory(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


if __name__ == "__main__":
    main()
