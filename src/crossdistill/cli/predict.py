"""`crossdistill predict`: the classes of image files."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from crossdistill.cli.answers import Answer, writer
from crossdistill.cli.boxes import holds_detector, predict_detector
from crossdistill.cli.parsing import make_parser, parse
from crossdistill.cli.saved import add_model_options, load
from crossdistill.errors import UserError, check_range

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

# Files are read and classified so many at a time, whatever their number.
_BATCH = 64
# ExecuTorch plans its memory for no more.
_BATCH_OF_EXPORTED = 32
# Exit code where some files could not be read; the others got their answers.
_SOME_SKIPPED = 3
# In the place of a file: the files are listed on the standard input, one a line.
_STDIN = "-"


@dataclass
class _Classifier:
    """A model of any kind that `predict` takes.

    Attributes:
        logits: of images (B, 3, H, W) in [0, 1], (B, K).
        image_size: (height, width) that it takes.
        names: of its classes.
        batch: images at a time.
    """

    logits: "Callable[[Tensor], Tensor]"
    image_size: tuple[int, int]
    names: list[str]
    batch: int


def run(arguments: list[str]) -> None:
    """Print the most likely classes of each file with their probabilities, best first.

    Of several files, those that cannot be read are named on stderr and skipped; the exit code is then 3.
    """
    parser = make_parser(
        "predict",
        "The most likely classes of image files, or the boxes that a detector finds. Exit code 3: some files could not "
        "be read and were skipped.",
    )
    add_model_options(
        parser,
        "run folder, a weights file that this program wrote, or a file that it exported (.onnx, .xml of OpenVINO, "
        ".pte, .pt2)",
    )
    parser.add_argument(
        "images",
        type=str,
        nargs="+",
        help="image files, and folders that are searched for them; - reads a list of them from the standard input",
    )
    parser.add_argument("--top", type=int, default=5, help="classes per image")
    parser.add_argument(
        "--min_score", type=float, default=0.5, help="of a detector: boxes with a lower score are left out"
    )
    parser.add_argument(
        "--output", type=str, default="", help="of a detector: an empty folder for pictures with boxes, and boxes.json"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per image, as soon as it is known")
    parser.add_argument("--csv", action="store_true", help="print CSV: file, rank, class, probability")
    options = parse(parser, arguments)
    check_range(at_least=1, top=options.top)
    if options.json and options.csv:
        raise UserError("--json and --csv exclude each other: give one of them")

    from rich.console import Console
    from rich.progress import Progress

    from crossdistill.data import to_input

    files = _files(options.images)
    if holds_detector(options.model):
        if options.csv:
            raise UserError("--csv is for classes: give --json for boxes")
        if predict_detector(options, files):
            raise SystemExit(_SOME_SKIPPED)
        return
    if options.output:
        raise UserError(f"--output is for detectors, and '{options.model}' holds a classifier: leave it out")
    classifier = _open(options)
    names = classifier.names
    top = min(options.top, len(names))
    skipped, started = 0, time.perf_counter()
    console = Console(stderr=True)
    # Elsewhere than on a terminal it would leave an empty line.
    shown = Progress(console=console, transient=True, disable=not console.is_terminal)
    with writer(options) as write, shown as progress:
        bar = progress.add_task("images", total=len(files))
        for batch in _batches(files, classifier.batch):
            read = read_images(batch, skip=len(files) > 1)
            skipped += len(batch) - len(read)
            if read:
                images = to_input([image for _, image in read], classifier.image_size)
                probabilities, classes = classifier.logits(images).softmax(dim=1).topk(top)
                for (file, _), values, indices in zip(read, probabilities.tolist(), classes.tolist(), strict=True):
                    write(Answer(file, [(names[i], value) for i, value in zip(indices, values, strict=True)]))
            progress.advance(bar, len(batch))
    seconds, done = time.perf_counter() - started, len(files) - skipped
    print(f"{done} images in {seconds:.1f} s: {done / seconds:.0f} images/s", file=sys.stderr)
    if skipped:
        raise SystemExit(_SOME_SKIPPED)


def _open(options: Namespace) -> _Classifier:
    """The model of the parsed options.

    Raises:
        UserError: as `load`, or as `open_exported`; an option that an exported file has no use for.
    """
    import torch

    from crossdistill.export.backend import open_exported, opens

    if opens(options.model):
        for option, default in (("image_size", None), ("accelerator", "auto")):
            if options[option] not in (default, "cpu"):
                raise UserError(
                    f"--{option}: an exported file has one image size and runs on the CPU: leave the option out"
                )
        runtime = open_exported(options.model)
        about = runtime.description
        return _Classifier(
            lambda images: torch.from_numpy(runtime.run(images.numpy())),
            about.image_size,
            about.classes,
            _BATCH_OF_EXPORTED,
        )
    model = load(options)
    device = next(model.parameters()).device

    @torch.no_grad()
    def logits(images: "Tensor") -> "Tensor":
        return model(images.to(device)).logits

    names = model.card.classes or [str(index) for index in range(model.num_classes)]
    return _Classifier(logits, model.image_size, names, _BATCH)


def _files(paths: list[str]) -> list[str]:
    """The files that are named, here or on the standard input, and the images in and below the folders."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    from crossdistill.data.paths import image_files

    files = []
    for path in _named(paths):
        found = image_files(path) if os.path.isdir(path) else [path]
        if not found:
            raise UserError(f"the folder {path} holds no image ({' '.join(IMG_EXTENSIONS)}): give another one")
        files += found
    return files


def _named(paths: list[str]) -> list[str]:
    """The paths, with those that the standard input lists in the place of `-`.

    Raises:
        UserError: it lists none.
    """
    if paths.count(_STDIN) > 1:
        raise UserError("the standard input can be read once: give - once")
    named: list[str] = []
    for path in paths:
        if path != _STDIN:
            named.append(path)
            continue
        listed = [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
        if not listed:
            raise UserError("-: the standard input lists no file: give one path a line")
        named += listed
    return named


def _batches(files: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(files), size):
        yield files[start : start + size]


def read_images(files: list[str], skip: bool) -> "list[tuple[str, Image]]":
    """The files that can be read, with their images; the others are named on stderr, or refused without `skip`."""
    from crossdistill.data import read_image

    read = []
    for file in files:
        try:
            read.append((file, read_image(file)))
        except UserError as error:
            if not skip:
                raise
            print(f"skipped: {error}", file=sys.stderr)
    return read
