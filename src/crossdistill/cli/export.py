"""`crossdistill export`: a student for other runtimes, judged and measured there."""

import json
from dataclasses import asdict

from crossdistill.cli.parsing import make_parser, parse
from crossdistill.errors import UserError
from crossdistill.export import BACKENDS
from crossdistill.options.values import NonNegativeFloat, PositiveInt, Seed


def run(arguments: list[str]) -> None:
    """Write the forms that `--to` names and print their card, or say which backends work."""
    parser = make_parser(
        "export",
        "Write a student for other runtimes, open it there again, judge it on real images, and measure it.",
        usage="RUN_OR_FILE --to timm onnx openvino executorch torch --output DIR [options]",
    )
    parser.add_argument(
        "model",
        type=str,
        nargs="?",
        default="",
        help="run folder, also of a run that was stopped, or a weights file that this program wrote",
    )
    parser.add_argument("--to", nargs="+", choices=list(BACKENDS), default=["onnx"], help="formats")
    parser.add_argument("--output", type=str, default="", help="the folder to make")
    parser.add_argument(
        "--data", type=str | None, default=None, help="what to judge on; default: what the run was trained on"
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="int8 forms too: ONNX for convolutional networks, OpenVINO for all; calibrated on training images",
    )
    parser.add_argument(
        "--max_drop", type=NonNegativeFloat, default=0.5, help="points of top-1 that a form may lose, else it fails"
    )
    parser.add_argument("--images", type=PositiveInt, default=1000, help="validation images to judge on")
    parser.add_argument("--calibration_images", type=PositiveInt, default=300, help="training images for int8")
    parser.add_argument("--seed", type=Seed, default=0, help="of the choice of the calibration images")
    parser.add_argument("--threads", type=PositiveInt, default=1, help="CPU threads when latencies are measured")
    parser.add_argument("--licence", type=str, default="", help="of the weights, for the card of the timm folder")
    parser.add_argument("--data_licence", type=str, default="", help="of the training images, for the same")
    parser.add_argument(
        "--push", type=str, default="", metavar="OWNER/NAME", help="upload the timm folder to the Hugging Face Hub"
    )
    parser.add_argument("--json", action="store_true", help="print the card as JSON")
    parser.add_argument("--doctor", action="store_true", help="say which backends work on this machine, and end")
    options = parse(parser, arguments)
    if options.doctor:
        _doctor(as_json=options.json)
        return
    if not options.model:
        raise UserError("missing: model, a run folder or a weights file (see: crossdistill export --help)")

    from crossdistill.cli.tables import show
    from crossdistill.export.export import export_student

    card = export_student(
        options.model,
        options.output,
        to=options.to,
        data=options.data,
        int8=options.int8,
        max_drop=options.max_drop,
        images=options.images,
        calibration=options.calibration_images,
        seed=options.seed,
        threads=options.threads,
        licence=options.licence,
        data_licence=options.data_licence,
        push=options.push,
    )
    if options.json:
        print(json.dumps(card.to_dict()))
    else:
        show(card)


def _doctor(*, as_json: bool) -> None:
    from crossdistill.export.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
        return
    for finding in findings:
        print(f"{finding.backend:<11} {finding.state:<14} {finding.said}")
