"""One self-contained HTML page of a run or of a study."""

from typing import Any

_LAZY = {"LivePage": "live", "write_report": "write"}

__all__ = ["LivePage", "write_report"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
