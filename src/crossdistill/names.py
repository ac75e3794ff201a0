"""The names of timm's models, read from its source: importing it brings torch, and a misspelt name waits for both."""

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from crossdistill.errors import UserError, nearest

_MODEL = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)
_DEPRECATED = re.compile(r"register_model_deprecations\(__name__, \{(.*?)\}\)", re.DOTALL)
_KEY = re.compile(r"""['"](\w+)['"]\s*:""")


def check_model_name(name: str) -> None:
    """Refuse a name that timm does not have, at once; what passes is checked again when the model is created.

    A dotted path and the name of a repository or a folder pass. A model that a user's own module registers with timm
    is not known here: where such a module may be imported before the model is created, do not call this.

    Args:
        name: what `--student` or `--teacher` was given.

    Raises:
        UserError: no model of timm has it; tells the nearest.
    """
    root, dot, _ = name.partition(".")
    if name and not dot and ":" not in name:
        names = registered_names()
        if root not in names:
            raise unknown_model(name, names)


def registered_names() -> set[str]:
    """All names of timm's models, deprecated ones too, without the tags of their weights."""
    spec = importlib.util.find_spec("timm")
    assert spec is not None and spec.origin is not None
    names: set[str] = set()
    for file in (Path(spec.origin).parent / "models").rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        names.update(_MODEL.findall(source))
        for table in _DEPRECATED.findall(source):
            names.update(_KEY.findall(table))
    return names


def unknown_model(name: str, names: Iterable[str]) -> UserError:
    """What is told of a name that is none of these."""
    return UserError(
        f"unknown model '{name}'{nearest(name.partition('.')[0], sorted(names))} (see: crossdistill models)"
    )
