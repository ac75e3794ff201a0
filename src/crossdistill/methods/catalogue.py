"""What a method's source says of it, read without importing it: that would import torch, for a list or an error."""

import ast
import importlib.util
import re
from dataclasses import dataclass, field
from pathlib import Path

_REFERENCE = re.compile(r"^(.+?\([^()]*arXiv\s+[\d.]+[^()]*\))", re.DOTALL | re.MULTILINE)


@dataclass
class Entry:
    """A method as its source describes it.

    Attributes:
        title: first paragraph of the module's text.
        reference: the paper; "" where the text names none.
        needs: the keywords of its `Needs`, for example `{"teacher": {"logits"}, "labels": True}`.
        hyperparameters: names of its constructor's arguments.
    """

    title: str
    reference: str
    needs: dict[str, set[str] | bool] = field(default_factory=dict)
    hyperparameters: list[str] = field(default_factory=list)


def read_entry(path: str) -> Entry:
    """The entry of the class at a dotted path.

    Args:
        path: for example `crossdistill.methods.kd.KD`; the class is written in that very module.
    """
    package, *folders, module, name = path.split(".")
    # Asking for the spec of anything deeper would import what lies above it.
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).parent.joinpath(*folders, f"{module}.py")
    tree = ast.parse(source.read_text(encoding="utf-8"))
    title, _, body = (ast.get_docstring(tree) or "").partition("\n\n")
    reference = _REFERENCE.search(body)
    entry = Entry(_flow(title), _flow(reference[1]) if reference else "")
    written = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    for node in written.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "needs":
            assert isinstance(node.value, ast.Call)
            entry.needs = {str(word.arg): ast.literal_eval(word.value) for word in node.value.keywords}
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            entry.hyperparameters = [argument.arg for argument in node.args.args]
    return entry


def _flow(text: str) -> str:
    return " ".join(text.split())
