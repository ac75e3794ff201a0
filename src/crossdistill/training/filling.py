"""What `crossdistill cache` does: the ingredients of a run, and its teacher's outputs instead of its training."""

from collections.abc import Sequence

from rich.console import Console

from crossdistill.errors import UserError
from crossdistill.methods import build_distiller
from crossdistill.options import DeviceOptions, MethodOptions, PairOptions, TrainingOptions
from crossdistill.training.caching import fill, open_cache
from crossdistill.training.devices import make_fabric
from crossdistill.training.ingredients import build_models, make_loaders, make_mixer, open_run_data
from crossdistill.training.preflight import ask_about_validation
from crossdistill.training.run import check_options, run_console
from crossdistill.training.state import seed_everything


def fill_cache(options: TrainingOptions, further: Sequence[str] = (), console: Console | None = None) -> None:
    """Fill the teacher cache of a run that `options` describe, or what is missing of it.

    Everything that can be refused is refused before the teacher runs.

    Args:
        options: of the run.
        further: names of methods, with their default hyper-parameters, that it is to serve beside that of the options.
        console: where to report; default: the standard output.

    Raises:
        UserError: a mistake in the options, the files or the pair, a cache of other conditions, or no room for it.
    """
    if not options.teacher_cache:
        raise UserError("--teacher_cache is missing: name the folder that is filled")
    check_options(options)
    console = run_console(console)
    data = open_run_data(options.data, options)
    fabric = make_fabric(options.part(DeviceOptions))
    seed_everything(options.seed)
    student, teacher = build_models(options.part(PairOptions), data)
    methods = [options.method, *map(MethodOptions, further)]
    distillers = [build_distiller(method, student, teacher, train_size=len(data.train)) for method in methods]
    fabric.launch()
    train, validation = make_loaders(options, data, student, fabric)
    cache = open_cache(options, distillers, data, train, make_mixer(options, data), fabric, fills=True)
    assert cache is not None
    cache.teacher.to(fabric.device)
    logits = ask_about_validation(
        fabric, distillers, data, validation, options.part(PairOptions), console, known=cache.validation_logits()
    )
    fill(cache, options, fabric, console, logits)
