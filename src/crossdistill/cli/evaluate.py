"""`crossdistill evaluate`: accuracy of a saved model on a data set."""

import json

from crossdistill.cli.parsing import make_parser, parse
from crossdistill.cli.saved import add_accelerator, pick_device


def run(arguments: list[str]) -> None:
    """Print top-1 accuracy, top-5 from ten classes on, the number of images and the time."""
    parser = make_parser("evaluate", "Accuracy of a saved model on the validation images of a data set.")
    parser.add_argument("model", help="run folder, or a weights file that this program wrote")
    parser.add_argument("--data", required=True, help="an image folder with val/ (or test/), or a built-in set's name")
    parser.add_argument(
        "--image_size", type=int | list[int] | None, help="side in pixels, or height and width; default: the model's"
    )
    parser.add_argument("--batch_size", type=int, default=256, help="images of one forward pass")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode images")
    parser.add_argument("--on_bad_image", choices=["stop", "skip"], default="stop", help="a file that cannot be decoded")
    add_accelerator(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parse(parser, arguments)

    from crossdistill.data import EvalLoader, open_data
    from crossdistill.models import build_model
    from crossdistill.options import ModelOptions
    from crossdistill.train.evaluate import evaluate

    size = options.image_size
    model = build_model(
        ModelOptions(),
        weights=options.model,
        num_classes=None,
        image_size=None if size is None else (size, size) if isinstance(size, int) else tuple(size),
    )
    data = open_data(options.data, on_bad_image=options.on_bad_image)
