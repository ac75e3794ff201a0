"""Choosing hyper-parameters on held-out training images, never on those that are reported."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from crossdistill.errors import UserError, check_range
from crossdistill.options import TrainingOptions
from crossdistill.study.trials import Tuned

# Share of the training images that trials are judged on, where the recipe names none.
HELD_OUT = 0.2
# Seconds that a database may take to answer.
STORAGE_WAIT = 60.0


def tune(
    options: TrainingOptions,
    *,
    trials: int | None = None,
    minutes: float | None = None,
    storage: str | None = None,
    output: str | Path,
    search: Sequence[str] | None = None,
    study: str | None = None,
    storage_wait: float = STORAGE_WAIT,
    console: Console | None = None,
) -> Tuned:
    """Search for a recipe's hyper-parameters: what `crossdistill tune` does.

    Trial 0 is the recipe as it is given, so that what comes out is no worse on the held-out images. A search that was
    stopped or killed goes on when it is called again; several callers with one storage share its trials. Each trial is
    a run below `output`/trials, without its checkpoints once it has ended.

    Args:
        options: the recipe. Where `held_out` is 0, a fifth of the training images is held out; `output` and `resume`
            are not read.
        trials: trials of the whole search, of all its callers and calls together.
        minutes: begin no further trial after so many; with neither, 20 trials.
        storage: address of a PostgreSQL that several machines share; default: a SQLite file in `output`.
        output: the search's folder.
        search: names of what is searched; default: every range of the method, the learning rate and the weight decay.
        study: the search's name in the storage; default: the name of `output`.
        storage_wait: seconds to wait for a database that does not answer.
        console: where to report; default: the standard output.

    Returns:
        The best recipe, and all trials.

    Raises:
        UserError: a mistake in the options, another recipe than the search was begun with, a database that does not
            answer, or no trial that finished.
        KeyboardInterrupt: stopped; the trial goes on from its checkpoint when this is called again.
    """
    if trials is None and minutes is None:
        trials = 20
    if trials is not None:
        check_range(at_least=1, trials=trials)
    if minutes is not None:
        check_range(above=0, minutes=minutes)
    check_range(at_least=0, storage_wait=storage_wait)
    if not str(output):
        raise UserError("--output is missing: name the folder that the search is written to")
    if options.devices * options.nodes > 1:
        raise UserError(
            "a trial runs on one device: leave --devices and --nodes out, and start one worker for each device "
            "(CUDA_VISIBLE_DEVICES) with the same --storage"
        )
    try:
        from crossdistill.study.search import Search
    except ModuleNotFoundError as error:
        raise UserError(f"tune needs {error.name}: pip install 'crossdistill[tune]'") from error
    found = Search(
        options,
        trials=trials,
        minutes=minutes,
        storage=storage,
        output=output,
        search=search,
        study=study,
        storage_wait=storage_wait,
        console=console or Console(),
    )
    return found.run()
