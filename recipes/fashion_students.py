"""The Fashion-MNIST tables of docs/results.md: a ViT teacher, a CNN and an MLP student, several seeds.

    python recipes/fashion_students.py --originals /usr/share/datasets/fashion-mnist --output runs/fashion

Every run is the quickstart's recipe, with another student where it is the MLP, judged once, at the end. `scratch-long`
is scratch with so many more epochs that it takes as long as the dearest method of its seed. KD's temperature is chosen
from 1, 2, 4 in runs of a third of the length, with seed 0, on 5,000 training images of Fashion-MNIST that are not among
the student's 2,000 (the teacher was trained on them, so they flatter it; they only choose the temperature). FOLDER
holds the original `*-ubyte.gz` files. Runs that are there already are not run again. Prints a Markdown table.
"""

import argparse
import gzip
import json
import statistics
import struct
from importlib.resources import files
from pathlib import Path
from typing import Any

from make_fashion_mini import PACKAGED, choose, write_gz
from rich.console import Console

from crossdistill.options import ModelOptions
from crossdistill.quickstart import recipe
from crossdistill.train import run

STUDENTS = {
    "CNN": ModelOptions("test_resnet"),
    "MLP": ModelOptions(
        "timm.models.mlp_mixer.MlpMixer", {"img_size": 32, "patch_size": 8, "embed_dim": 128, "num_blocks": 6}
    ),
}
METHODS = {
    "CNN": ("scratch", "kd", "ofa", "cakd", "fbt", "pat"),
    "MLP": ("scratch", "kd", "ofa", "fbt", "pat"),
}
HELD_OUT = 5000
TEMPERATURES = (1.0, 2.0, 4.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--originals", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=Path("runs/fashion"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    arguments = parser.parse_args()
    held_out = _hold_out(arguments.originals, arguments.output / "held_out")

    lines = []
    for kind in arguments.students:
        student = STUDENTS[kind]
        chosen = {
            t: _run(
                arguments.output / f"choose-{kind}-{t:g}", "kd", student, 0, f"fashion-mnist:{held_out}", temperature=t
            )
            for t in TEMPERATURES
        }
        best = max(chosen, key=lambda t: chosen[t]["top1"])
        tried = ", ".join(f"T = {t:g}: {summary['top1']:.2f}" for t, summary in chosen.items())
        print(f"{kind}: held-out top-1 {tried}; chosen T = {best:g}", flush=True)
        summaries: dict[str, list[dict[str, Any]]] = {}
        for seed in range(arguments.seeds):
            for method in METHODS[kind]:
                summaries.setdefault(method, []).append(
                    _run(
                        arguments.output / f"{kind}-{method}-{seed}",
                        method,
                        student,
                        seed,
                        "fashion-mini",
                        **({"temperature": best} if method == "kd" else {}),
                    )
                )
            longest = max(runs[seed]["seconds"] for runs in summaries.values() if len(runs) > seed)
            summaries.setdefault("scratch-long", []).append(
                _run(
                    arguments.output / f"{kind}-scratch-long-{seed}",
                    "scratch",
                    student,
                    seed,
                    "fashion-mini",
                    longer=longest / summaries["scratch"][seed]["seconds"],
                )
            )
        lines += [_line(kind, method, best, runs) for method, runs in summaries.items()]
    print("\n| student | method | top-1 % of each seed | mean | spread | agrees with teacher % | seconds |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(lines))


def _run(
    output: Path,
    method: str,
    student: ModelOptions,
    seed: int,
    data: str,
    *,
    longer: float = 1.0,
    **hyperparameters: Any,
) -> dict[str, Any]:
    if (output / "summary.json").exists():
        return json.loads((output / "summary.json").read_text())
    teacher = files("crossdistill") / "assets" / "fashion_vit.safetensors"
    options = recipe(method, str(teacher), str(output), seed)
    options.student, options.data = student, data
    options.method.kwargs |= hyperparameters
    if data != "fashion-mini":
        options.epochs //= 3
    options.epochs = round(options.epochs * longer)
    options.evaluate_every = options.epochs
    options.resume = (output / "recipe.yaml").exists()
    return run(options, Console(quiet=True))


def _line(kind: str, method: str, temperature: float, summaries: list[dict[str, Any]]) -> str:
    top1 = [summary["top1"] for summary in summaries]
    spread = statistics.stdev(top1) if len(top1) > 1 else 0.0
    name = f"{method} (T = {temperature:g})" if method == "kd" else method
    agreement = statistics.mean(summary["teacher_agreement"] for summary in summaries)
    seconds = statistics.mean(summary["seconds"] for summary in summaries)
    each = " ".join(f"{value:.2f}" for value in top1)
    return (
        f"| {kind} | {name} | {each} | {statistics.mean(top1):.2f} | {spread:.2f} | {agreement:.2f} | {seconds:.0f} |"
    )


def _hold_out(originals: Path, folder: Path) -> Path:
    """A Fashion-MNIST whose training images are the student's and whose test images are other training images."""
    folder.mkdir(parents=True, exist_ok=True)
    images = gzip.decompress((originals / "train-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((originals / "train-labels-idx1-ubyte.gz").read_bytes())[8:]
    taken = set(choose(labels))
    others = [i for i in range(len(labels)) if i not in taken][:HELD_OUT]
    magic, _, height, width = struct.unpack(">4i", images[:16])
    size = height * width
    pixels = b"".join(images[16 + i * size : 16 + (i + 1) * size] for i in others)
    write_gz(folder / "t10k-images-idx3-ubyte.gz", struct.pack(">4i", magic, len(others), height, width) + pixels)
    write_gz(
        folder / "t10k-labels-idx1-ubyte.gz", struct.pack(">2i", 0x801, len(others)) + bytes(labels[i] for i in others)
    )
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        (folder / name).write_bytes((PACKAGED / name).read_bytes())
    return folder


if __name__ == "__main__":
    main()
