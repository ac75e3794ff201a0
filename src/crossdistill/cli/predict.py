"""`crossdistill predict`: the classes of image files."""

import json
import os
import sys
from typing import TYPE_CHECKING

from crossdistill.cli.boxes import holds_detector, predict_detector
from crossdistill.cli.parsing import make_parser, parse
from crossdistill.cli.saved import add_model_options, load
from crossdistill.errors import UserError, check_range

if TYPE_CHECKING:
    from PIL.Image import Image

# Files are read and classified so many at a time, whatever their number.
_BATCH = 64
# Exit code where some files could not be read; the others got their answers.
_SOME_SKIPPED = 3


def run(arguments: list[str]) -> None:
    """Print the most likely classes of each file with their probabilities, best first; of a detector, its boxes.

    Of several files, those that cannot be read are named on stderr and skipped; the exit code is then 3.
    """
    parser = make_parser(
        "predict",
        "The most likely classes of image files, or the boxes that a detector finds. Exit code 3: some files could not "
        "be read and were skipped.",
    )
    add_model_options(parser)
    parser.add_argument("images", type=str, nargs="+", help="image files, and folders that are searched for them")
    parser.add_argument("--top", type=int, default=5, help="classes per image")
    parser.add_argument(
        "--min_score", type=float, default=0.5, help="of a detector: boxes with a lower score are left out"
    )
    parser.add_argument(
        "--output", type=str, default="", help="of a detector: an empty folder for pictures with boxes, and boxes.json"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per image")
    options = parse(parser, arguments)
    check_range(at_least=1, top=options.top)

    import torch

    from crossdistill.data import to_input

    files = _files(options.images)
    if holds_detector(options.model):
        if predict_detector(options, files):
            raise SystemExit(_SOME_SKIPPED)
        return
    if options.output:
        raise UserError(f"--output is for detectors, and '{options.model}' holds a classifier: leave it out")
    model = load(options)
    device = next(model.parameters()).device
    names = model.card.classes or [str(index) for index in range(model.num_classes)]
    top = min(options.top, len(names))
    skipped = 0
    for start in range(0, len(files), _BATCH):
        batch = files[start : start + _BATCH]
        read = read_images(batch, skip=len(files) > 1)
        skipped += len(batch) - len(read)
        if not read:
            continue
        images = to_input([image for _, image in read], model.image_size).to(device)
        with torch.no_grad():
            probabilities, classes = model(images).logits.softmax(dim=1).topk(top)
        for (file, _), values, indices in zip(read, probabilities.tolist(), classes.tolist(), strict=True):
            found = [(names[index], value) for index, value in zip(indices, values, strict=True)]
            if options.json:
                print(json.dumps({"file": file, "classes": [{"name": n, "probability": p} for n, p in found]}))
            else:
                print(f"{file}: " + ", ".join(f"{name} {100 * value:.1f} %" for name, value in found))
    if skipped:
        raise SystemExit(_SOME_SKIPPED)


def _files(paths: list[str]) -> list[str]:
    """The files that are named, and the images in and below the folders."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    from crossdistill.data.paths import image_files

    files = []
    for path in paths:
        found = image_files(path) if os.path.isdir(path) else [path]
        if not found:
            raise UserError(f"the folder {path} holds no image ({' '.join(IMG_EXTENSIONS)}): give another one")
        files += found
    return files


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
