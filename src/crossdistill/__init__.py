"""Distil any vision model into any other: CNN, Vision Transformer and MLP, both ways."""

from typing import Any

__version__ = "0.1.0"

# Names that users import from the package itself; resolved on first use, so that the command line starts without torch.
_LAZY = {
    "Distiller": "crossdistill.distiller",
    "Outputs": "crossdistill.staged",
    "Stage": "crossdistill.staged",
    "StagedModel": "crossdistill.staged",
    "UserError": "crossdistill.errors",
}

__all__ = ["Distiller", "Outputs", "Stage", "StagedModel", "UserError", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
