"""`crossdistill evaluate`: accuracy of a saved model on a data set."""

import json
import statistics
from functools import partial
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from crossdistill.cli.parsing import make_parser, parse
from crossdistill.cli.saved import add_model_options, load, load_teacher
from crossdistill.errors import UserError, check_range

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from crossdistill.data import Batch
    from crossdistill.staged import Outputs, StagedModel


def run(arguments: list[str]) -> None:
    """Print top-1 accuracy, top-5 from ten classes on, the number of images and the time; on request, robustness."""
    parser = make_parser("evaluate", "Accuracy of a saved model on the validation images of a data set.")
    add_model_options(parser)
    parser.add_argument(
        "--data",
        type=str,
        required=True,
        help="a folder with val/ (or test/) or with one folder per class, a built-in set, or a function's dotted path",
    )
    parser.add_argument("--batch_size", type=int, default=256, help="images of one forward pass")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode images")
    parser.add_argument(
        "--on_bad_image", choices=["stop", "skip"], default="stop", help="what a file that cannot be decoded does"
    )
    parser.add_argument(
        "--corruptions",
        action="store_true",
        help="also accuracy under eight common corruptions at five severities (41 times the time)",
    )
    parser.add_argument(
        "--with_patches",
        action="store_true",
        help="also accuracy with the patch tokens' mean answer beside the heads', as CSKD's authors infer",
    )
    parser.add_argument(
        "--probe",
        nargs="+",
        choices=["knn", "linear"],
        default=[],
        help="instead: what the model represents is worth, without its head, by nearest neighbours or a linear layer; "
        "takes the training images of --data too",
    )
    parser.add_argument(
        "--with_teacher", action="store_true", help="with --probe, of a run folder: its teacher beside the student"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parse(parser, arguments)
    check_range(at_least=1, batch_size=options.batch_size)
    check_range(at_least=0, workers=options.workers)

    if options.with_teacher and not options.probe:
        raise UserError("--with_teacher is for --probe: add --probe knn, or leave it out")
    if options.probe:
        _probe(options)
        return

    from rich.console import Console
    from rich.progress import track

    from crossdistill.data import EvalLoader, open_validation
    from crossdistill.evaluation import check_classes, corrupted_top1, evaluate

    model = load(options)
    data = open_validation(options.data, on_bad_image=options.on_bad_image)
    check_classes(options.model, model, data)
    loader = EvalLoader(
        data.images,
        image_size=model.image_size,
        batch_size=options.batch_size,
        device=next(model.parameters()).device,
        workers=options.workers,
    )
    result = evaluate(model, loader, further=_with_patches(model) if options.with_patches else None)
    if data.skipped:
        result["skipped"] = data.skipped
    corrupted = {}
    if options.corruptions:
        bar = partial(track, description="corruptions", console=Console(stderr=True), transient=True)
        corrupted = corrupted_top1(model, loader, bar)
    if options.json:
        print(json.dumps(result | ({"corrupted_top1": corrupted} if corrupted else {})))
        return
    width = max(map(len, result)) + 1
    for name, value in result.items():
        print(f"{name:<{width}}{_shown(name, value)}")
    if corrupted:
        _print_corrupted(corrupted)


def _probe(options: Namespace) -> None:
    """Print what the model's representation is worth, and its teacher's."""
    from crossdistill.data import EvalLoader, open_data
    from crossdistill.evaluation import knn_answers, linear_answers, represent

    answer = {"knn": knn_answers, "linear": linear_answers}
    models = {"": load(options, without_head=True)}
    if options.with_teacher:
        models["teacher_"] = load_teacher(options)
    data = open_data(options.data, on_bad_image=options.on_bad_image)
    result: dict[str, float] = {}
    for prefix, model in models.items():
        train, validation = (
            represent(
                model,
                EvalLoader(
                    source,
                    image_size=model.image_size,
                    batch_size=options.batch_size,
                    device=next(model.parameters()).device,
                    workers=options.workers,
                ),
            )
            for source in (data.train, data.validation)
        )
        for probe in options.probe:
            right = answer[probe](train, data.train.labels, validation).cpu() == data.validation.labels
            result[f"{prefix}{probe}_top1"] = 100 * right.float().mean().item()
    result["images"] = len(data.validation)
    if options.json:
        print(json.dumps(result))
        return
    width = max(map(len, result)) + 1
    for name, value in result.items():
        print(f"{name:<{width}}{_shown(name, value)}")


def _with_patches(model: "StagedModel") -> "Callable[[Batch, StagedModel, Outputs], dict[str, Tensor]]":
    """Whether CSKD's inference is right, for each image."""
    from crossdistill.methods.cskd import logits_with_patches

    model.require_dense_logits("--with_patches")

    def right(batch: "Batch", model: "StagedModel", outputs: "Outputs") -> "dict[str, Tensor]":
        return {"top1_with_patches": logits_with_patches(model, outputs).argmax(dim=1) == batch.labels}

    return right


def _print_corrupted(corrupted: dict[str, list[float]]) -> None:
    from rich.table import Table

    from crossdistill.cli.tables import show

    table = Table(title="top-1 % on corrupted images")
    for column in ("corruption", "1", "2", "3", "4", "5", "mean"):
        table.add_column(column, justify="left" if column == "corruption" else "right")
    rows = [*corrupted.items(), ("mean", [statistics.mean(column) for column in zip(*corrupted.values(), strict=True)])]
    for name, values in rows:
        table.add_row(name, *(f"{value:.2f}" for value in (*values, statistics.mean(values))))
    show(table)


def _shown(name: str, value: float) -> str:
    if name in ("images", "skipped"):
        return f"{value:9d}"
    return f"{value:9.1f} s" if name == "seconds" else f"{value:9.2f} %"
