"""`crossdistill models`: the names of timm's models."""

from crossdistill.cli.parsing import make_parser, parse
from crossdistill.errors import UserError, nearest

# Building a model without memory to count its parameters takes about 0.1 s; more of them only on request.
_COUNTED_UNASKED = 20


def run(arguments: list[str]) -> None:
    """Print the names that match, with parameters where they were counted, image size and weights."""
    parser = make_parser("models", "The names of timm's models, for --teacher and --student.")
    parser.add_argument("--filter", type=str, default="", help="part of a name, or a pattern such as vit_*_224")
    parser.add_argument("--pretrained", action="store_true", help="only models that have pretrained weights")
    parser.add_argument(
        "--parameters",
        action="store_true",
        help=f"count the parameters, 0.1 s a model; done anyway for up to {_COUNTED_UNASKED} models",
    )
    options = parse(parser, arguments)

    import timm

    pattern = options.filter if "*" in options.filter else f"*{options.filter}*"
    names = timm.list_models(pattern, pretrained=options.pretrained)
    if options.pretrained:
        # With their tags; a model once, whatever the number of its weights.
        names = list(dict.fromkeys(name.partition(".")[0] for name in names))
    if not names:
        raise UserError(f"no model of timm matches '{options.filter}'{nearest(options.filter, timm.list_models())}")
    count = options.parameters or len(names) <= _COUNTED_UNASKED
    width = max(map(len, names))
    for name in names:
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
        columns = [f"{name:<{width}}"]
        if count:
            columns.append(f"{_parameters(name) / 1e6:8.2f} M")
        if config is not None:
            columns += [
                f"{config.input_size[-1]:4d} px",
                f"weights {config.tag or 'default'}" if config.has_weights else "",
            ]
        print("  ".join(columns).rstrip())


def _parameters(name: str) -> int:
    import timm
    import torch

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in timm.create_model(name).parameters())
