"""The pages of docs/, the examples, and the site that is made of them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crossdistill.methods import METHODS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_every_page_is_in_the_site() -> None:
    listed = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert listed == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


def test_every_method_is_in_the_reference() -> None:
    listed = re.findall(r"^::: (\S+)$", (DOCS / "reference" / "methods.md").read_text(), flags=re.MULTILINE)
    assert set(listed) == {path.rpartition(".")[0] for path in METHODS.values()}


def test_the_loop_of_the_page_trains_a_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.findall(r"```python\n(.*?)```", (DOCS / "other_loops.md").read_text(), flags=re.DOTALL)[0]
    weights = ROOT / "src" / "crossdistill" / "assets" / "fashion_vit.safetensors"
    names: dict = {}
    exec(code.replace("teacher.safetensors", str(weights)), names)
    torch.manual_seed(0)
    batch = torch.rand(4, 3, 32, 32), torch.tensor([0, 3, 5, 9])
    student = names["teach"](iter([batch] * 2), 2)
    assert student(batch[0]).shape == (4, 10)
    assert all(parameter.grad is not None for parameter in student.parameters())


@pytest.mark.parametrize("name", ["plain_loop", "lightning_module", "hugging_face_trainer"])
def test_examples_run(name: str, tmp_path: Path) -> None:
    if name == "hugging_face_trainer":
        pytest.importorskip("transformers")
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), "--epochs", "1", "--images", "128"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert torch.load(tmp_path / "student.pt", weights_only=True)["fc.weight"].shape[0] == 10
