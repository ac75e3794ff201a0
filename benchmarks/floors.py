"""What a step of each method costs beyond what it cannot do without, for pairs of unlike architectures.

    python benchmarks/floors.py                                   # every method on every pair
    python benchmarks/floors.py --pairs vit-cnn --methods kd fbt pat --batch_size 32 --rounds 7
    python benchmarks/floors.py --grow classes --methods kd dist  # 10 to 20,000 classes; also: batch, size, teacher

The floor is the same work on bare modules, without this package's frame: as many passes of timm's own forward of the
teacher (no gradient) and of the student (forward and backward) as the method's step makes; the method's own terms
alone, forward and backward, on outputs that are known; the optimiser. Ours is the whole step. Each is in the faster of
the two memory formats, on noise. They take turns, so that whatever else the machine does falls on both; the ratio of
the medians is printed. Peak memory is that of a process of its own for each, torch included.
"""

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import fields, replace

import torch
from side_by_side import peaks, take_turns
from torch import Tensor, nn

from crossdistill.analysis.timing import TrainingStep
from crossdistill.data import Batch
from crossdistill.distiller import Distiller
from crossdistill.errors import UserCaution, UserError
from crossdistill.methods import METHODS, build_distiller
from crossdistill.models import build_model
from crossdistill.options import MethodOptions, ModelOptions
from crossdistill.staged import Outputs, StagedModel
from crossdistill.training.devices import peak_memory

VIT = ModelOptions("vit_tiny_patch16_224", {"depth": 6})
MLP = ModelOptions("mixer_s16_224", {"num_blocks": 6, "embed_dim": 256})
CNN = ModelOptions("mobilenetv3_small_100")
PAIRS = {"vit-cnn": (VIT, CNN), "cnn-vit": (ModelOptions("resnet18"), VIT), "mlp-cnn": (MLP, CNN)}
FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
STEPS_FOR_MEMORY = 3
# What grows, and through which values.
GROWTH: dict[str, list[int]] = {"batch": [8, 16, 32, 64], "size": [64, 96, 128, 224], "classes": [10, 100, 1000, 20000]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--batch", type=int, default=32, help="images of a step")
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each")
    parser.add_argument("--grow", choices=list(GROWTH), help="one method's and pair's ratio as this grows")
    parser.add_argument("--without_memory", action="store_true", help="time only")
    parser.add_argument("--peak_memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    # What methods say of such small maps is nothing to tell here.
    warnings.simplefilter("ignore", UserCaution)
    if arguments.peak_memory:
        print(json.dumps(_peak(arguments, *arguments.peak_memory.split("/"))))
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"batches of {arguments.batch}, {arguments.size} px, {arguments.classes} classes, {device}, "
          f"torch {torch.__version__}\n")  # fmt: skip
    print("| pair | method | floor, ms | ours, ms | ratio | memory: floor, MiB | ours, MiB | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    values = GROWTH[arguments.grow] if arguments.grow else [None]
    for value in values:
        if value is not None:
            setattr(arguments, arguments.grow, value)
        for pair in arguments.pairs:
            for method in arguments.methods:
                _print_row(arguments, pair, method, "" if value is None else f", {arguments.grow} {value}")


def _print_row(arguments: argparse.Namespace, pair: str, method: str, note: str) -> None:
    try:
        runs = _runs(arguments, pair, method)
    except UserError as error:
        print(f"| {pair}{note} | {method} | does not fit: {str(error)[:60]} | | | | | |")
        return
    seconds = take_turns(runs, arguments.rounds)
    floor, ours = (min(seconds[f"{kind} {order}"] for order in FORMATS) for kind in ("floor", "ours"))
    cells = [f"{1000 * floor:.1f}", f"{1000 * ours:.1f}", f"{ours / floor:.3f}"]
    if not arguments.without_memory:
        memory = peaks([f"{pair}/{method}/floor", f"{pair}/{method}/ours"])
        least, most = (peak / 2**20 for peak in memory.values())
        cells += [f"{least:.0f}", f"{most:.0f}", f"{most / least:.3f}"]
    else:
        cells += ["", "", ""]
    print(f"| {pair}{note} | {method} | {' | '.join(cells)} |", flush=True)


def _runs(arguments: argparse.Namespace, pair: str, method: str) -> dict[str, Callable[[], None]]:
    runs: dict[str, Callable[[], None]] = {}
    for order, memory_format in FORMATS.items():
        runs[f"floor {order}"] = Floor(_distiller(arguments, pair, method), arguments.batch, memory_format)
        distiller = _distiller(arguments, pair, method).to(memory_format=memory_format)  # type: ignore[call-overload]
        step = TrainingStep(distiller, arguments.batch)
        step.images = step.images.to(memory_format=memory_format)
        # The critic has an optimiser of its own and a step every few; the floor leaves it out, and so does this.
        runs[f"ours {order}"] = step.of_student
    return runs


def _distiller(arguments: argparse.Namespace, pair: str, method: str) -> Distiller:
    torch.manual_seed(0)
    student, teacher = (
        build_model(one, num_classes=arguments.classes, image_size=(arguments.size, arguments.size), role=role)
        for one, role in zip(reversed(PAIRS[pair]), ("student", "teacher"), strict=True)
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return build_distiller(MethodOptions(method), student, teacher, train_size=1000).to(device)


class Floor:
    """The passes of a method's step on bare modules, its own terms on outputs that are known, and the optimiser."""

    def __init__(self, distiller: Distiller, batch_size: int, memory_format: torch.memory_format) -> None:
        distiller.to(memory_format=memory_format)  # type: ignore[call-overload]
        step = TrainingStep(distiller, batch_size)
        self.distiller, self.labels, self.optimizer = distiller, step.labels, step._optimizer
        self.images = step.images.to(memory_format=memory_format)
        self.batch = Batch(self.images, self.labels, step.indices)
        self.passes = {"student": 0, "teacher": 0}
        for name in self.passes:
            model = getattr(distiller, name)
            if isinstance(model, StagedModel):
                model.model.register_forward_pre_hook(lambda *_, name=name: self._count(name))
        self.counting = True
        student, teacher = distiller.run_models(self.batch, None)
        self.counting = False
        self.student_outputs, self.teacher_outputs = _leaves(student), teacher

    def _count(self, name: str) -> None:
        if self.counting:
            self.passes[name] += 1

    def __call__(self) -> None:
        student, teacher = self.distiller.student, self.distiller.teacher
        for _ in range(self.passes["teacher"]):
            assert teacher is not None
            with torch.no_grad():
                teacher.model(teacher.prepare_images(self.images))
        for _ in range(self.passes["student"]):
            logits = student.model(student.prepare_images(self.images))
            logits = logits[0] if isinstance(logits, tuple) else logits
            nn.functional.cross_entropy(logits, self.labels).backward()
        terms = list(self.distiller.terms(self.student_outputs, self.teacher_outputs, self.batch).values())
        # A term without gradient, where a pair has nothing to match, adds nothing to go backward through.
        terms = [term for term in terms if term.requires_grad]
        if terms:
            torch.stack(terms).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def _leaves(outputs: Outputs) -> Outputs:
    """The same tensors, where a backward pass ends."""
    return replace(outputs, **{field.name: _leaf(getattr(outputs, field.name)) for field in fields(outputs)})


def _leaf(value: object) -> object:
    if isinstance(value, Tensor):
        return value.detach().requires_grad_(value.is_floating_point())
    if isinstance(value, dict):
        return {key: _leaf(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_leaf(one) for one in value]
    return value


def _peak(arguments: argparse.Namespace, pair: str, method: str, kind: str) -> int:
    distiller = _distiller(arguments, pair, method)
    if kind == "floor":
        run: Callable[[], None] = Floor(distiller, arguments.batch, torch.contiguous_format)
    else:
        run = TrainingStep(distiller, arguments.batch).of_student
    for _ in range(STEPS_FOR_MEMORY):
        run()
    return peak_memory(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


if __name__ == "__main__":
    main()
