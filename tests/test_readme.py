"""What the README shows must run."""

import re
from pathlib import Path

import torch

from crossdistill.cli import VERBS
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import SIDE, TINY

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_example_method_trains() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    student = StagedModel(TINY["cnn"](3), name="cnn", image_size=SIDE)
    teacher = StagedModel(TINY["vit"](3), name="vit", image_size=SIDE)
    method = names["Matching"](student, teacher, weight=2.0)  # type: ignore[operator]
    terms = method(torch.rand(2, 3, SIDE, SIDE), torch.tensor([0, 2]))
    assert set(terms) == {"labels", "matching"}
    torch.stack(list(terms.values())).sum().backward()
    assert method.projection.weight.grad.abs().sum() > 0


def test_every_verb_that_the_readme_calls_exists() -> None:
    called = set(re.findall(r"^crossdistill (\w+)", README, flags=re.MULTILINE))
    assert called and called <= set(VERBS)
