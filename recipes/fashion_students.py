"""The Fashion-MNIST tables of docs/results.md: several teachers, students and seeds, every method that fits the pair.

    python recipes/fashion_students.py --originals /usr/share/datasets/fashion-mnist --output runs/fashion

The CNN and the MLP learn from the quickstart's ViT; two ViTs, without and with a distillation token, from its CNN.
Every run is the quickstart's recipe, for longer and judged once, at the end; what else the table holds is in
recipes/tables.py. The images that choose KD's temperature are 5,000 training images of Fashion-MNIST that are not among
the student's 2,000 (the teacher was trained on them, so they flatter it; they only choose the temperature). FOLDER
holds the original `*-ubyte.gz` files.
"""

import argparse
import gzip
import struct
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from crossdistill.quickstart import PAIRS, Pair, recipe
from make_fashion_mini import PACKAGED, choose, write_gz
from tables import parse, print_table

from crossdistill.options import ModelOptions, TrainingOptions

ASSETS = files("crossdistill") / "assets"
MLP = Pair(
    PAIRS["vit-cnn"].teacher,
    ModelOptions(
        "timm.models.mlp_mixer.MlpMixer", {"img_size": 32, "patch_size": 8, "embed_dim": 128, "num_blocks": 6}
    ),
    5e-3,
)
VIT = Pair(
    PAIRS["cnn-vit"].teacher,
    ModelOptions(
        "vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 96, "depth": 6, "num_heads": 3}
    ),
    2e-3,
)
# With the methods that fit each; CAKD wants a Transformer and a CNN, CSKD a CNN and a student with patch tokens.
STUDIES: dict[str, tuple[Pair, tuple[str, ...]]] = {
    "vit-cnn": (PAIRS["vit-cnn"], ("scratch", "kd", "ofa", "cakd", "fbt", "pat")),
    "cnn-vit": (VIT, ("scratch", "kd", "ofa", "cskd", "fbt", "pat")),
    "cnn-distilled-vit": (PAIRS["cnn-vit"], ("scratch", "kd", "ofa", "cskd", "fbt", "pat")),
    "vit-mlp": (MLP, ("scratch", "kd", "ofa", "fbt", "pat")),
}
EPOCHS = 24
HELD_OUT = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--originals", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=Path("runs/fashion"))
    arguments = parse(parser, list(STUDIES), "originals")
    held_out = _hold_out(arguments.originals, arguments.output / "held_out")
    for name in arguments.pairs:
        pair, methods = STUDIES[name]
        print_table(
            partial(fashion_recipe, pair), methods, arguments.output / name, arguments, f"fashion-mnist:{held_out}"
        )


def fashion_recipe(
    pair: Pair, method: str, output: str, seed: int, hyperparameters: dict[str, Any] | None = None
) -> TrainingOptions:
    """What every study on Fashion-MNIST runs; `hyperparameters` are the method's, beside the quickstart's own."""
    options = recipe(method, str(ASSETS / pair.teacher), output, seed, pair)
    options.epochs = EPOCHS
    # The quickstart's temperatures are its own: here KD's is chosen on held-out images and PAT's is the paper's.
    options.method.kwargs.pop("temperature", None)
    options.method.kwargs |= hyperparameters or {}
    return options


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
