"""`crossdistill predict`: the classes of image files."""

import json

from crossdistill.cli.parsing import make_parser, parse
from crossdistill.cli.saved import add_model_options, load
from crossdistill.errors import check_range

# Files are read and classified so many at a time, whatever their number.
_BATCH = 64


def run(arguments: list[str]) -> None:
    """Print the most likely classes of each file with their probabilities, best first."""
    parser = make_parser("predict", "The most likely classes of image files.")
    add_model_options(parser)
    parser.add_argument("images", type=str, nargs="+", help="image files")
    parser.add_argument("--top", type=int, default=5, help="classes per image")
    parser.add_argument("--json", action="store_true", help="print one JSON object per image")
    options = parse(parser, arguments)
    check_range(at_least=1, top=options.top)

    import torch

    from crossdistill.data import read_image, to_input

    model = load(options)
    device = next(model.parameters()).device
    names = model.card.classes or [str(index) for index in range(model.num_classes)]
    top = min(options.top, len(names))
    for start in range(0, len(options.images), _BATCH):
        files = options.images[start : start + _BATCH]
        images = to_input([read_image(file) for file in files], model.image_size).to(device)
        with torch.no_grad():
            probabilities, classes = model(images).logits.softmax(dim=1).topk(top)
        for file, values, indices in zip(files, probabilities.tolist(), classes.tolist(), strict=True):
            found = [(names[index], value) for index, value in zip(indices, values, strict=True)]
            if options.json:
                print(json.dumps({"file": file, "classes": [{"name": n, "probability": p} for n, p in found]}))
            else:
                print(f"{file}: " + ", ".join(f"{name} {100 * value:.1f} %" for name, value in found))
