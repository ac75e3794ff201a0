"""What the runs of a study share: the memory order of a student, and what a teacher says of a seed's images."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from crossdistill.methods import load_method
from crossdistill.options import DataOptions, PairOptions, TrainingOptions
from crossdistill.study.record import Record, write_record
from crossdistill.study.runs import Run, student_of
from crossdistill.training.ingredients import build_models, open_run_data
from crossdistill.training.memory_format import measure_memory_formats

# No pair can be called so.
_FOLDER = "_teacher_cache"
# What of a teacher is small beside the images. Maps of stages are many times as large as the images that they are of,
# and to read them costs more than a small teacher.
_SMALL = {"logits", "head_logits", "pooled"}
# Beside those of the data and the pair, what decides which images a teacher is shown and how it computes.
_DECIDING = ("batch_size", "accumulate", "mixup", "cutmix", "precision", "channels_last")
_WITHOUT_EFFECT = ("method", "student_weights", "student_new_head", "workers", "cache_images", "on_bad_image")


def choose_memory_orders(missing: Iterable[Run], record: Record, folder: Path, console: Console) -> bool:
    """Measure `--channels_last auto` once for each student of a pair, so that all its runs have one; whether any was.

    Args:
        missing: the runs that are to be made.
        record: of the study; is told what was found.
        folder: the study's.
        console: where to report.
    """
    found = False
    for run in missing:
        options, name = run.options, student_of(run.pair, run.options)
        if options.channels_last != "auto" or name in record.memory_orders or run.teacher_row:
            continue
        student, teacher = build_models(options, open_run_data(options.data, options))
        times = measure_memory_formats(student, teacher, options.batch_size // options.accumulate)
        order = "true" if times.prefers_channels_last else "false"
        record.memory_orders[name] = order
        write_record(record, folder)
        console.print(
            f"{name}: channels-last {1000 * times.channels_last:.0f} ms, contiguous {1000 * times.contiguous:.0f} ms: "
            f"--channels_last {order} for all its runs",
            soft_wrap=True,
        )
        found = True
    return found


def with_shared_teacher(run: Run, folder: Path) -> Run:
    """A run that reads, and first fills, what its teacher says from a cache that all rows of its seed use who can.

    Those are the rows that read logits or pooled vectors only. Rows whose teachers or images differ have caches apart.
    """
    needs = load_method(run.options.method.name).needs.teacher
    if not needs or not needs <= _SMALL or run.options.channels_last == "auto":
        return run
    cache = folder / _FOLDER / run.pair / f"{run.seed}-{_digest(run.options)}"
    return replace(run, options=replace(run.options, teacher_cache=str(cache), teacher_cache_fill=True))


def _digest(options: TrainingOptions) -> str:
    facts = asdict(options.part(PairOptions)) | asdict(options.part(DataOptions))
    facts |= {name: getattr(options, name) for name in _DECIDING}
    deciding = {name: value for name, value in facts.items() if name not in _WITHOUT_EFFECT}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:8]
