"""`crossdistill rank`: candidate teachers side by side, before any training."""

import json

from crossdistill.cli.analyze import add_image_options, check_image_options
from crossdistill.cli.device import add_accelerator_option, find_device
from crossdistill.cli.named_models import add_model_options, add_size_options, build_named, check_named
from crossdistill.cli.parsing import make_parser, parse
from crossdistill.options import height_and_width
from crossdistill.options.values import Seed


def run(arguments: list[str]) -> None:
    """Print what is known of each teacher for a data set and a student, best first."""
    parser = make_parser(
        "rank", "Candidate teachers for a student and a data set, best first, from what is known before any training."
    )
    parser.add_argument(
        "TEACHERS", type=str, nargs="+", help="models' names, weights files or run folders of this program"
    )
    parser.add_argument(
        "--student.name",
        type=str,
        required=True,
        help="as a teacher: the model that would learn; short: --student NAME",
    )
    add_model_options(parser, "student")
    add_model_options(parser, "teacher", weights="pretrained")
    add_size_options(parser)
    add_image_options(parser, 1000)
    parser.add_argument(
        "--order",
        choices=["top1", "logit_ratio", "cka"],
        default="top1",
        help="what they are ordered by: accuracy, the first logit over the second (less is better), or CKA",
    )
    parser.add_argument("--seed", type=Seed, default=0, help="of a student without weights")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_accelerator_option(parser)
    options = parse(parser, arguments)
    check_image_options(options)
    for name in (*options.TEACHERS, options.student.name):
        check_named(name)

    import torch

    from crossdistill.analysis.images import choose_images, common_size
    from crossdistill.analysis.ranking import Ranking, describe_candidate, ranked
    from crossdistill.cli.tables import show
    from crossdistill.data import EvalLoader, open_validation

    data = open_validation(options.data)
    images = choose_images(data.images, options.images)
    device = find_device(options.accelerator)
    size = height_and_width(options.image_size, "image_size")
    teacher_size = height_and_width(options.teacher_image_size, "teacher_image_size") or size
    torch.manual_seed(options.seed)
    student = build_named(options, "student", options.student.name, len(data.classes), size, options.stem_stride).to(
        device
    )
    candidates = []
    for name in options.TEACHERS:
        teacher = build_named(options, "teacher", name, None, teacher_size).to(device)
        loader = EvalLoader(
            images,
            image_size=common_size([teacher, student]),
            batch_size=options.batch_size,
            device=device,
            workers=options.workers,
        )
        candidates.append(describe_candidate(name, teacher, student, loader, data.classes))
    ranking = Ranking(ranked(candidates, options.order), options.order, student.name, len(images))
    if options.json:
        print(json.dumps(ranking.to_dict()))
    else:
        show(ranking)
