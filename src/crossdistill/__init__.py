"""Distil any vision model into any other: CNN, Vision Transformer and MLP, both ways."""

from typing import Any

__version__ = "0.1.0"

# Names that users import from the package itself; resolved on first use, so that the command line starts without torch.
_LAZY = {
    "Distiller": "crossdistill.distiller",
    "Needs": "crossdistill.distiller",
    "Outputs": "crossdistill.staged",
    "Stage": "crossdistill.staged",
    "StagedModel": "crossdistill.staged",
    "Study": "crossdistill.study",
    "TrainingOptions": "crossdistill.options",
    "UserError": "crossdistill.errors",
    "compare": "crossdistill.study",
    "distill": "crossdistill.training",
    "export_student": "crossdistill.export.export",
    "load_results": "crossdistill.study",
    "load_student": "crossdistill.models",
    "open_data": "crossdistill.data",
    "read_study": "crossdistill.study",
    "train": "crossdistill.training",
}

__all__ = [
    "Distiller",
    "Needs",
    "Outputs",
    "Stage",
    "StagedModel",
    "Study",
    "TrainingOptions",
    "UserError",
    "__version__",
    "compare",
    "distill",
    "export_student",
    "load_results",
    "load_student",
    "open_data",
    "read_study",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
