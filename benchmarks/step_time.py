"""What the frame costs: a bare training loop and ours, side by side in one run.

    python benchmarks/step_time.py                     # data from memory and from a folder of JPEG files
    python benchmarks/step_time.py --student resnet10t --teacher vit_tiny_patch16_224 --rounds 7

The bare loop is what one would write by hand: teacher forward, student forward and backward, optimiser, on the same
models, batches and loss. Ours is `crossdistill.training.trainer.Trainer` with its schedule, sums, progress and Fabric.
They take turns, so that whatever else the machine does falls on both; the ratio of the medians is printed. Peak memory
is that of a process of its own for each loop.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image
from side_by_side import peaks, take_turns
from torch import nn

from crossdistill.data import Batch, EvalLoader, Mixer, TrainLoader, open_data
from crossdistill.functional import kd_loss
from crossdistill.methods.kd import KD
from crossdistill.models import build_model
from crossdistill.options import DeviceOptions, ModelOptions, OptimizationOptions, ReportingOptions, TrainingOptions
from crossdistill.training.classification import AccuracyJudge
from crossdistill.training.devices import make_fabric, peak_memory
from crossdistill.training.run_folder import RunFolder
from crossdistill.training.trainer import Trainer

STEPS = 8  # of one turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="test_resnet")
    parser.add_argument("--teacher", default="test_vit")
    parser.add_argument("--image_size", type=int, default=160, help="side in pixels (test_vit takes 160)")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each loop")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--peak_memory", choices=["bare", "ours"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_memory:
        print(json.dumps(_peak_memory(arguments)))
        return

    print(f"{arguments.student} <- {arguments.teacher}, {arguments.image_size} px, batch {arguments.batch_size}, "
          f"{torch.get_num_threads()} threads, torch {torch.__version__}")  # fmt: skip
    for where in ("memory", "jpeg folder"):
        with tempfile.TemporaryDirectory() as folder:
            bare, ours = _loops(arguments, where, Path(folder))
            turns = take_turns({"bare": bare, "ours": ours}, arguments.rounds)
        medians = {name: seconds / STEPS for name, seconds in turns.items()}
        print(f"data from {where:12} bare {1000 * medians['bare']:7.1f} ms/step   ours {1000 * medians['ours']:7.1f} "
              f"ms/step   ratio {medians['ours'] / medians['bare']:.3f}")  # fmt: skip
    memory = peaks(("bare", "ours"))
    mebibytes = {name: peak / 2**20 for name, peak in memory.items()}
    print(f"peak memory       bare {mebibytes['bare']:7.0f} MiB       ours {mebibytes['ours']:7.0f} MiB       "
          f"ratio {mebibytes['ours'] / mebibytes['bare']:.3f}")  # fmt: skip


def _loops(arguments: argparse.Namespace, where: str, folder: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    """Both loops on data of the same kind; each call of either makes `STEPS` steps."""
    data = _make_images(folder / "images", arguments)
    options = TrainingOptions(
        output=str(folder / "run"),
        data=str(data),
        batch_size=arguments.batch_size,
        image_size=arguments.image_size,
        epochs=10_000,
        log_every=STEPS,
        workers=arguments.workers,
        crop="resized",
        cache_images="true" if where == "memory" else "false",
    )
    return _bare(arguments, options), _ours(arguments, options)


def _models(arguments: argparse.Namespace, device: torch.device) -> tuple[nn.Module, ...]:
    torch.manual_seed(0)
    return tuple(
        build_model(ModelOptions(name), num_classes=10, image_size=(arguments.image_size, arguments.image_size)).to(
            device
        )
        for name in (arguments.student, arguments.teacher)
    )


def _bare(arguments: argparse.Namespace, options: TrainingOptions) -> Callable[[], None]:
    fabric = make_fabric(options.part(DeviceOptions))
    staged_student, staged_teacher = _models(arguments, fabric.device)
    student, teacher = staged_student.model.train(), staged_teacher.model.eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    batches = _forever(_train_loader(options, fabric.device))

    def run() -> None:
        for _ in range(STEPS):
            batch = next(batches)
            with torch.no_grad():
                target = teacher((batch.images - staged_teacher.mean) / staged_teacher.std)
            logits = student((batch.images - staged_student.mean) / staged_student.std)
            loss = 0.1 * nn.functional.cross_entropy(logits, batch.labels) + 0.9 * kd_loss(logits, target, 4.0)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        loss.item()

    return run


def _ours(arguments: argparse.Namespace, options: TrainingOptions) -> Callable[[], None]:
    fabric = make_fabric(options.part(DeviceOptions))
    distiller = KD(*_models(arguments, fabric.device))
    train = _train_loader(options, fabric.device)
    size = (arguments.image_size, arguments.image_size)
    data = open_data(options.data)
    validation = EvalLoader(data.validation, image_size=size, batch_size=8, device=fabric.device, workers=0)
    trainer = Trainer(
        fabric,
        distiller,
        train,
        AccuracyJudge(data, distiller.student, validation, fabric, probe=None),
        Mixer(10, 0, 0, 0, 0),
        RunFolder(options.output),
        optimization=options.part(OptimizationOptions),
        devices=options.part(DeviceOptions),
        reporting=options.part(ReportingOptions),
    )
    batches = _forever(train)
    trainer.wrapped.train()

    def run() -> None:
        trainer.start_interval()
        for _ in range(STEPS):
            trainer.train_step(0, batches)

    return run


def _forever(train: TrainLoader) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from train.epoch(epoch)
        epoch += 1


def _train_loader(options: TrainingOptions, device: torch.device) -> TrainLoader:
    side = options.image_size
    assert isinstance(side, int)
    return TrainLoader(
        open_data(options.data).train,
        image_size=(side, side),
        batch_size=options.batch_size,
        data_seed=0,
        device=device,
        options=options,
    )


def _make_images(folder: Path, arguments: argparse.Namespace) -> Path:
    """JPEG files of noise smoothed to look like pictures to a decoder: enough for a turn, in ten classes."""
    generator = torch.Generator().manual_seed(0)
    side = arguments.image_size * 5 // 4
    for split, count in (("train", STEPS * arguments.batch_size), ("val", 10)):
        for i in range(count):
            path = folder / split / f"class{i % 10}" / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = torch.rand(1, 3, side // 8, side // 8, generator=generator)
            pixels = nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)[0]
            Image.fromarray((255 * pixels.permute(1, 2, 0)).byte().numpy()).save(path, quality=90)
    return folder


def _peak_memory(arguments: argparse.Namespace) -> int:
    """Bytes at the peak of one turn of one loop, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        options_of = _bare if arguments.peak_memory == "bare" else _ours
        data = _make_images(Path(folder) / "images", arguments)
        options = TrainingOptions(
            output=f"{folder}/run",
            data=str(data),
            batch_size=arguments.batch_size,
            image_size=arguments.image_size,
            epochs=10_000,
            log_every=STEPS,
            workers=0,
            cache_images="true",
        )
        options_of(arguments, options)()
    return peak_memory(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


if __name__ == "__main__":
    main()
