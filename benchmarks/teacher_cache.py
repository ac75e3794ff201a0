"""What a training step costs where the teacher's answers come from a cache, where it runs, and without one.

    python benchmarks/teacher_cache.py
    python benchmarks/teacher_cache.py --method pat
    python benchmarks/teacher_cache.py --student resnet10t --teacher vit_tiny_patch16_224 --classes 1000 --rounds 7

All three are `crossdistill.training.trainer.Trainer` on the same images. They take turns, so that whatever else the
machine does falls on all of them; the medians are printed as multiples of the step without a teacher. The cache is
filled first; its checksums are computed in the first turn, which is not counted, but told.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from lightning.fabric import Fabric
from rich.console import Console
from side_by_side import take_turns

from crossdistill.cache import Answers
from crossdistill.data import Batch, EvalLoader, ImageData, Mixer, TensorSource, TrainLoader
from crossdistill.distiller import Distiller
from crossdistill.methods import build_distiller
from crossdistill.methods.scratch import Scratch
from crossdistill.models import build_model
from crossdistill.options import (
    DeviceOptions,
    MethodOptions,
    ModelOptions,
    OptimizationOptions,
    ReportingOptions,
    TrainingOptions,
)
from crossdistill.staged import Outputs, StagedModel
from crossdistill.training.caching import fill, open_cache
from crossdistill.training.classification import AccuracyJudge
from crossdistill.training.devices import make_fabric
from crossdistill.training.run_folder import RunFolder
from crossdistill.training.trainer import Trainer

STEPS = 8  # of one turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="kd")
    parser.add_argument("--student", default="test_resnet")
    parser.add_argument("--teacher", default="test_vit")
    parser.add_argument("--image_size", type=int, default=160, help="side in pixels (test_vit takes 160)")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each loop")
    arguments = parser.parse_args()

    print(f"{arguments.method}: {arguments.student} <- {arguments.teacher}, {arguments.image_size} px, "
          f"{arguments.classes} classes, batch {arguments.batch_size}, {torch.get_num_threads()} threads, "
          f"torch {torch.__version__}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        options = TrainingOptions(
            output=f"{folder}/run",
            batch_size=arguments.batch_size,
            epochs=arguments.rounds + 1,
            log_every=STEPS,
            teacher_cache=f"{folder}/cache",
        )
        data = _noise(arguments)
        fabric = make_fabric(options.part(DeviceOptions))
        readings: list[float] = []
        loops = {
            "scratch": _loop(fabric, Scratch(_model(arguments, "student")), data, options),
            "with teacher": _loop(fabric, _distiller(arguments), data, options),
            "cached": _loop(fabric, _distiller(arguments), data, options, readings),
        }
        started = time.perf_counter()
        loops["cached"]()
        print(f"the first {STEPS} steps with the cache, checksums included: {time.perf_counter() - started:.2f} s")
        seconds = take_turns(loops, arguments.rounds - 1)
    for name, turn in seconds.items():
        print(f"{name:12} {1000 * turn / STEPS:7.1f} ms/step   {turn / seconds['scratch']:.3f} of scratch")
    print(f"reading the cache alone: {1000 * statistics.median(readings):.2f} ms of the processor a step")


def _model(arguments: argparse.Namespace, role: str) -> StagedModel:
    torch.manual_seed(0)
    size = (arguments.image_size, arguments.image_size)
    return build_model(ModelOptions(getattr(arguments, role)), num_classes=arguments.classes, image_size=size)


def _distiller(arguments: argparse.Namespace) -> Distiller:
    models = (_model(arguments, role) for role in ("student", "teacher"))
    return build_distiller(MethodOptions(arguments.method), *models, train_size=STEPS * arguments.batch_size)


def _loop(
    fabric: Fabric,
    distiller: Distiller,
    data: ImageData,
    options: TrainingOptions,
    readings: list[float] | None = None,
) -> Callable[[], None]:
    """Each call makes `STEPS` steps; with a cache, where `readings` is given what reading takes in each of them."""
    distiller.to(fabric.device)
    size = distiller.student.image_size
    train = TrainLoader(
        data.train,
        image_size=size,
        batch_size=options.batch_size,
        data_seed=0,
        device=fabric.device,
        options=options,
    )
    mixer = Mixer(len(data.classes), 0, 0, 0, 0)
    answers = None
    if readings is not None:
        cache = open_cache(options, [distiller], data, train, mixer, fabric, fills=True)
        assert cache is not None
        fill(cache, options, fabric, Console(), None)
        answers = _Timed(cache.answers(), readings)
    validation = EvalLoader(data.validation, image_size=size, batch_size=8, device=fabric.device, workers=0)
    trainer = Trainer(
        fabric,
        distiller,
        train,
        AccuracyJudge(data, distiller.student, validation, fabric, probe=None),
        mixer,
        RunFolder(Path(options.output)),
        optimization=options.part(OptimizationOptions),
        devices=options.part(DeviceOptions),
        reporting=options.part(ReportingOptions),
        cached_outputs=answers,
    )
    batches = _epochs(train)
    trainer.wrapped.train()

    def run() -> None:
        trainer.start_interval()
        for _ in range(STEPS):
            trainer.train_step(0, batches)

    return run


class _Timed:
    """Answers, and the seconds of this process that each of them takes."""

    def __init__(self, answers: Answers | None, seconds: list[float]) -> None:
        assert answers is not None, "the method reads nothing that a cache could hold"
        self._answers = answers
        self._seconds = seconds

    def at(self, step: int, micro: int, batch: Batch) -> Outputs:
        started = time.process_time()
        outputs = self._answers.at(step, micro, batch)
        self._seconds.append(time.process_time() - started)
        return outputs


def _epochs(train: TrainLoader) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from train.epoch(epoch)
        epoch += 1


def _noise(arguments: argparse.Namespace) -> ImageData:
    """Images in memory, enough for a turn to be an epoch."""
    count = STEPS * arguments.batch_size
    shape = (count, 3, arguments.image_size, arguments.image_size)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    source = TensorSource(pixels, torch.arange(count) % arguments.classes)
    classes = [str(i) for i in range(arguments.classes)]
    return ImageData("noise", classes, source, TensorSource(pixels[:8], source.labels[:8]))


if __name__ == "__main__":
    main()
