"""Make the built-in set `fashion-mini` from the original files of Fashion-MNIST.

    python recipes/make_fashion_mini.py FOLDER [OUTPUT]

FOLDER holds the four `*-ubyte.gz` files as Zalando publishes them. 200 training images of each class are drawn with
`random.Random(0)` and stay in their original order; the validation images are all 10,000 test images, unchanged.
The images are the same on every run; the packed bytes depend on the version of zlib alone.
"""

import gzip
import random
import shutil
import struct
import sys
from pathlib import Path

PER_CLASS = 200
CLASSES = 10
PACKAGED = Path(__file__).parent.parent / "src" / "crossdistill" / "data" / "fashion_mini"


def choose(labels: bytes) -> list[int]:
    """Positions of the chosen training images, ascending."""
    draw = random.Random(0)
    by_class = ([i for i, label in enumerate(labels) if label == k] for k in range(CLASSES))
    return sorted(i for positions in by_class for i in draw.sample(positions, PER_CLASS))


def write_gz(path: Path, content: bytes) -> None:
    # Neither a time nor a file name in the header, so that the bytes depend on the content alone.
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=raw, mtime=0) as packed:
        packed.write(content)


def make(folder: Path, output: Path) -> None:
    images = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes())[8:]
    magic, _, height, width = struct.unpack(">4i", images[:16])
    pixels, size = images[16:], height * width

    chosen = choose(labels)
    header = struct.pack(">4i", magic, len(chosen), height, width)
    write_gz(
        output / "train-images-idx3-ubyte.gz", header + b"".join(pixels[i * size : (i + 1) * size] for i in chosen)
    )
    write_gz(
        output / "train-labels-idx1-ubyte.gz",
        struct.pack(">2i", 0x801, len(chosen)) + bytes(labels[i] for i in chosen),
    )
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        shutil.copyfile(folder / name, output / name)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    make(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else PACKAGED)
