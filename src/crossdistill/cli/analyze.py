"""`crossdistill analyze`: what two trained models have in common inside, and where they look."""

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from crossdistill.cli.device import add_accelerator_option, find_device
from crossdistill.cli.named_models import add_model_options, add_size_options, build_named, check_named
from crossdistill.cli.parsing import make_parser, parse
from crossdistill.errors import UserError, check_range
from crossdistill.options import height_and_width

if TYPE_CHECKING:
    from crossdistill.analysis.representations import Representations


def run(arguments: list[str]) -> None:
    """Print CKA between the stages, where they respond and how far attention looks; with `--output`, figures of it."""
    parser = make_parser(
        "analyze",
        "What the stages of one model or two say of the same images: CKA between them, where in the image they "
        "respond, how far attention looks, and which places speak for a class. Any two models will do.",
    )
    parser.add_argument("TEACHER", type=str, help="a model's name, or a weights file or run folder of this program")
    parser.add_argument("STUDENT", type=str | None, nargs="?", default=None, help="as TEACHER; default: it alone")
    add_model_options(parser, "teacher")
    add_model_options(parser, "student")
    add_size_options(parser)
    add_image_options(parser, 256)
    parser.add_argument("--pictures", type=int, default=4, help="images that the figures show one by one")
    parser.add_argument(
        "--output", type=str | None, default=None, help="folder for analysis.json and the figures; needs matplotlib"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_accelerator_option(parser)
    options = parse(parser, arguments)
    check_image_options(options)
    check_range(at_least=0, pictures=options.pictures)
    names = [options.TEACHER, *([options.STUDENT] if options.STUDENT else [])]
    for name in names:
        check_named(name)
    if options.output and importlib.util.find_spec("matplotlib") is None:
        raise UserError("--output draws figures and needs matplotlib: pip install 'crossdistill[figures]'")

    import torch

    from crossdistill.analysis.images import choose_images, common_size
    from crossdistill.analysis.representations import analyze, take_pictures
    from crossdistill.cli.tables import show
    from crossdistill.data import EvalLoader, open_validation

    data = open_validation(options.data)
    # A model without weights is the same in every call.
    torch.manual_seed(0)
    size = height_and_width(options.image_size, "image_size")
    teacher_size = height_and_width(options.teacher_image_size, "teacher_image_size") or size
    teacher = build_named(options, "teacher", options.TEACHER, None, teacher_size)
    models = [teacher]
    if options.STUDENT:
        models.append(build_named(options, "student", options.STUDENT, None, size, options.stem_stride))
    device = find_device(options.accelerator)
    models = [model.eval().to(device) for model in models]
    loader = EvalLoader(
        choose_images(data.images, options.images),
        image_size=common_size(models),
        batch_size=options.batch_size,
        device=device,
        workers=options.workers,
    )
    found = analyze(models, loader, data.name)
    if options.json:
        print(json.dumps(found.to_dict()))
    else:
        show(found)
    if options.output:
        few = next(iter(loader.at(torch.arange(options.pictures)))) if options.pictures else None
        pictures = take_pictures(models, few, data.classes) if few is not None else []
        from crossdistill.analysis.figures import write_figures

        folder = Path(options.output).expanduser()
        files = [*write_figures(folder, found, pictures), _write_json(folder, found)]
        if not options.json:
            print("written: " + ", ".join(map(str, files)))


def add_image_options(parser: ArgumentParser, images: int) -> None:
    """The data, how many of its images, and how they are read.

    Args:
        parser: from `make_parser`.
        images: the default of `--images`.
    """
    parser.add_argument("--data", type=str, required=True, help="validation images, as for `evaluate`")
    parser.add_argument("--images", type=int, default=images, help="how many of them, a fixed random choice")
    parser.add_argument("--batch_size", type=int, default=64, help="images of one forward pass; at least 4")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode images")


def check_image_options(options: Namespace) -> None:
    """Refuse numbers that no estimate can be made of.

    Raises:
        UserError: naming the option.
    """
    check_range(at_least=4, images=options.images, batch_size=options.batch_size)
    check_range(at_least=0, workers=options.workers)


def _write_json(folder: Path, found: "Representations") -> Path:
    from crossdistill.files import written_whole

    file = folder / "analysis.json"
    with written_whole(file) as beside:
        beside.write_text(json.dumps(found.to_dict(), indent=1) + "\n")
    return file
