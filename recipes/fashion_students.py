"""The Fashion-MNIST tables of docs/results.md: several teachers, students and seeds, every method that fits the pair.

    python recipes/fashion_students.py --originals /usr/share/datasets/fashion-mnist --output runs/fashion

The CNN and the MLP learn from the quickstart's ViT, the ViT from its CNN. Every run is the quickstart's recipe, judged
once, at the end. `scratch-long` is scratch with so many more epochs that it takes as long as the dearest method. KD's
temperature is chosen from 1, 2, 4 in runs of a third of the length, with seed 0, on 5,000 training images of
Fashion-MNIST that are not among the student's 2,000 (the teacher was trained on them, so they flatter it; they only
choose the temperature). FOLDER holds the original `*-ubyte.gz` files. Runs that are there already are not run again.
Prints a Markdown table for each pair.
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
from crossdistill.quickstart import PAIRS, Pair, recipe
from crossdistill.train import run

ASSETS = files("crossdistill") / "assets"
MLP = Pair(
    PAIRS["vit-cnn"].teacher,
    ModelOptions(
        "timm.models.mlp_mixer.MlpMixer", {"img_size": 32, "patch_size": 8, "embed_dim": 128, "num_blocks": 6}
    ),
    5e-3,
)
# With the methods that fit each; CAKD wants a Transformer and a CNN, CSKD a CNN and a student with patch tokens.
STUDIES: dict[str, tuple[Pair, tuple[str, ...]]] = {
    "vit-cnn": (PAIRS["vit-cnn"], ("scratch", "kd", "ofa", "cakd", "fbt", "pat")),
    "cnn-vit": (PAIRS["cnn-vit"], ("scratch", "kd", "ofa", "cskd", "fbt", "pat")),
    "vit-mlp": (MLP, ("scratch", "kd", "ofa", "fbt", "pat")),
}
HELD_OUT = 5000
TEMPERATURES = (1.0, 2.0, 4.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--originals", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=Path("runs/fashion"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", nargs="+", choices=STUDIES, default=list(STUDIES))
    arguments = parser.parse_args()
    held_out = _hold_out(arguments.originals, arguments.output / "held_out")
    for name in arguments.pairs:
        _print_table(*STUDIES[name], arguments.output / name, arguments.seeds, f"fashion-mnist:{held_out}")


def _print_table(pair: Pair, methods: tuple[str, ...], output: Path, seeds: int, held_out: str) -> None:
    chosen = {
        t: _run(pair, output / f"choose-{t:g}", "kd", 0, data=held_out, length=1 / 3, temperature=t)["top1"]
        for t in TEMPERATURES
    }
    best = max(chosen, key=lambda t: chosen[t])
    summaries: dict[str, list[dict[str, Any]]] = {}
    for seed in range(seeds):
        for method in methods:
            temperature = {"temperature": best} if method == "kd" else {}
            summaries.setdefault(method, []).append(
                _run(pair, output / f"{method}-{seed}", method, seed, **temperature)
            )
    dearest = max(statistics.mean(summary["seconds"] for summary in runs) for runs in summaries.values())
    length = dearest / statistics.mean(summary["seconds"] for summary in summaries["scratch"])
    summaries["scratch-long"] = [
        _run(pair, output / f"scratch-long-{seed}", "scratch", seed, length=length) for seed in range(seeds)
    ]
    print(f"\n{output.name}: held-out top-1 of KD at T = " + ", ".join(f"{t:g}: {v:.2f}" for t, v in chosen.items()))
    print("\n| method | top-1 % of each seed | mean | spread | agrees with teacher % | seconds |")
    print("|---|---|---|---|---|---|")
    for method, runs in summaries.items():
        print(_line(f"kd (T = {best:g})" if method == "kd" else method, runs), flush=True)


def _run(
    pair: Pair,
    output: Path,
    method: str,
    seed: int,
    *,
    data: str = "fashion-mini",
    length: float = 1.0,
    **hyperparameters: Any,
) -> dict[str, Any]:
    if (output / "summary.json").exists():
        return json.loads((output / "summary.json").read_text())
    options = recipe(method, str(ASSETS / pair.teacher), str(output), seed, pair)
    options.data = data
    options.method.kwargs |= hyperparameters
    options.epochs = round(options.epochs * length)
    options.evaluate_every = options.epochs
    options.resume = (output / "recipe.yaml").exists()
    return run(options, Console(quiet=True))


def _line(name: str, summaries: list[dict[str, Any]]) -> str:
    top1 = [summary["top1"] for summary in summaries]
    spread = statistics.stdev(top1) if len(top1) > 1 else 0.0
    agreement = statistics.mean(summary["teacher_agreement"] for summary in summaries)
    seconds = statistics.mean(summary["seconds"] for summary in summaries)
    each = " ".join(f"{value:.2f}" for value in top1)
    return f"| {name} | {each} | {statistics.mean(top1):.2f} | {spread:.2f} | {agreement:.2f} | {seconds:.0f} |"


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
