"""Many runs that answer one question: methods compared with statistics, and the search for hyper-parameters."""

from typing import Any

_LAZY = {
    "Comparison": "comparison",
    "Results": "results",
    "Study": "study",
    "collect": "collection",
    "compare": "comparison",
    "load_results": "results",
    "read_study": "files",
    "shipped_recipes": "files",
    "shipped_studies": "files",
}

__all__ = [
    "Comparison",
    "Results",
    "Study",
    "collect",
    "compare",
    "load_results",
    "read_study",
    "shipped_recipes",
    "shipped_studies",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
