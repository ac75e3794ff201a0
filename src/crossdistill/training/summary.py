"""What came out of a run: `summary.json`, and the table that ends it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import crossdistill
from crossdistill.data import ImageData, fingerprint
from crossdistill.evaluation import headline
from crossdistill.files import source_fingerprint
from crossdistill.methods import method_name
from crossdistill.models import weights_fingerprint
from crossdistill.options import TrainingOptions
from crossdistill.staged import StagedModel
from crossdistill.training.devices import peak_memory
from crossdistill.training.run_folder import RunFolder
from crossdistill.training.trainer import Trainer

# What judges a run, as it is told.
TITLES = {
    "top1": "top-1",
    "teacher_cosine": "cosine to the teacher",
    "teacher_agreement": "agreement with the teacher",
    "knn_top1": "top-1 of nearest neighbours",
}


def summarise(
    options: TrainingOptions, data: ImageData, trainer: Trainer, teacher_top1: float | None
) -> dict[str, Any]:
    """What `summary.json` holds.

    Args:
        options: of the run.
        data: the data set.
        trainer: behind the last step.
        teacher_top1: accuracy of the teacher in percent.
    """
    import timm

    state, distiller, device = trainer.state, trainer.distiller, trainer.fabric.device
    evaluation = dict(state.last_evaluation)
    judged_by = headline(evaluation)
    agreement = evaluation.pop("agreement", None)
    top1 = evaluation.pop("top1", None)
    for name in ("images", "seconds"):
        evaluation.pop(name)
    images = state.step * options.batch_size
    return {
        "method": method_name(type(distiller)),
        "method_kwargs": options.method.kwargs,
        "teacher": distiller.teacher.name if distiller.teacher is not None else None,
        "student": distiller.student.name,
        "data": data.name,
        "image_size": list(distiller.student.image_size),
        "seed": options.seed,
        "epochs": options.epochs,
        "steps": state.step,
        "top1": top1,
        "best_top1": state.best if judged_by == "top1" else None,
        **evaluation,
        # What the run is judged by: without labels there is no accuracy.
        "judged_by": "teacher_agreement" if judged_by == "agreement" else judged_by,
        "best": state.best,
        "teacher_top1": teacher_top1,
        "teacher_agreement": agreement,
        "evaluated_weights": "moving average" if trainer.ema is not None else "last step",
        "train_images": len(data.train),
        "validation_images": len(data.validation),
        "skipped_images": data.skipped,
        "teacher_params": _parameters(distiller.teacher),
        "student_params": _parameters(distiller.student),
        "extra_params": distiller.extra_parameters(),
        "images_per_second": images / state.seconds if state.seconds else 0.0,
        "seconds": state.seconds,
        "peak_memory_bytes": peak_memory(device),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "devices": trainer.fabric.world_size,
        "precision": options.precision,
        "teacher_cache": options.teacher_cache_mode if options.teacher_cache else None,
        "channels_last": trainer.channels_last,
        "stages": {"teacher": _stages(distiller.teacher), "student": _stages(distiller.student)},
        # What the method reads of each, in the words of `Needs`.
        "reads": {"teacher": sorted(distiller.needs.teacher), "student": sorted(distiller.needs.student)},
        "data_fingerprint": f"{fingerprint(data.train)}/{fingerprint(data.validation)}",
        "teacher_fingerprint": weights_fingerprint(distiller.teacher) if distiller.teacher is not None else None,
        "code_fingerprint": source_fingerprint(Path(crossdistill.__file__).parent),
        "crossdistill": crossdistill.__version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def _parameters(model: StagedModel | None) -> int | None:
    return sum(parameter.numel() for parameter in model.parameters()) if model is not None else None


def _stages(model: StagedModel | None) -> list[dict[str, Any]]:
    """Each stage as JSON has it, which knows no tuples."""
    stages = [dataclasses.asdict(stage) for stage in model.stages] if model is not None else []
    return [{name: list(v) if isinstance(v, tuple) else v for name, v in stage.items()} for stage in stages]


def judgement(summary: Mapping[str, Any]) -> str:
    """What a run came to, in words: `top-1 81.20 %`."""
    name = summary.get("judged_by", "top1")
    return "not judged" if name is None else f"{TITLES[name]} {summary[name]:.2f} %"


def print_summary(console: Console, summary: dict[str, Any], folder: RunFolder) -> None:
    """The table that ends a run."""
    table = Table(title=f"{summary['method']}: {summary['student']} on {summary['data']}", show_header=False)
    name = summary["judged_by"]
    if name is None:
        table.add_row("top-1", "not known: the images have no labels (see --probe_data)")
    else:
        table.add_row(TITLES[name], f"{summary[name]:.2f} % (last epoch; best {summary['best']:.2f} %)")
    if "knn_top1" in summary and name != "knn_top1":
        table.add_row(TITLES["knn_top1"], f"{summary['knn_top1']:.2f} %")
    if summary["teacher"]:
        table.add_row("teacher", summary["teacher"])
    if summary["teacher_top1"] is not None:
        table.add_row("teacher's top-1", f"{summary['teacher_top1']:.2f} %")
    if summary["teacher_agreement"] is not None and name != "teacher_agreement":
        table.add_row("agreement with the teacher", f"{summary['teacher_agreement']:.2f} %")
    table.add_row("parameters", f"{summary['student_params']:,} (+ {summary['extra_params']:,} while training)")
    table.add_row("training", f"{summary['seconds']:.1f} s, {summary['images_per_second']:.0f} images/s")
    table.add_row("peak memory", f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB")
    table.add_row("student", str(folder.student))
    console.print(table)
