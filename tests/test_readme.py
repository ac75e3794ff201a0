"""What the README shows must run."""

import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch

import crossdistill
from crossdistill.cli import VERBS, main
from crossdistill.testing import SIDE, TINY, staged

README = (Path(__file__).parent.parent / "README.md").read_text()
LOOP, METHOD, CONTRACT = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that the README calls my_lab.methods."""
    module = ModuleType("my_lab.methods")
    monkeypatch.setitem(sys.modules, "my_lab", ModuleType("my_lab"))
    monkeypatch.setitem(sys.modules, "my_lab.methods", module)
    exec(METHOD, module.__dict__)
    return module


def test_example_method_trains(methods: ModuleType) -> None:
    student, teacher = (staged(kind, TINY[kind]) for kind in ("cnn", "vit"))
    method = methods.Matching(student, teacher, weight=2.0)
    terms = method(torch.rand(2, 3, SIDE, SIDE), torch.tensor([0, 2]))
    assert set(terms) == {"labels", "matching"}
    torch.stack(list(terms.values())).sum().backward()
    assert method.projection.weight.grad.abs().sum() > 0


def test_example_method_is_short_and_keeps_the_contract(methods: ModuleType) -> None:
    assert len(METHOD.splitlines()) < 40
    names: dict[str, type] = {}
    exec(CONTRACT, names)
    contract = names["TestMatching"]()
    contract.test_hyperparameters_have_a_type_and_a_text()
    contract.test_reads_only_what_it_declares("swin->distilled")
    contract.test_same_seed_same_loss_and_state_dict_round_trip("cnn->vit")


def test_example_method_is_explained_by_its_class(methods: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "my_lab.methods.Matching"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Match the pooled features, after a projection.\n")
    assert "of the matching term." in out


def test_plain_loop_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "teacher").mkdir(parents=True)
    weights = Path(crossdistill.__file__).parent / "assets" / "fashion_vit.safetensors"
    shutil.copy(weights, tmp_path / "runs" / "teacher" / "student.safetensors")
    batch = torch.rand(2, 3, SIDE, SIDE), torch.tensor([0, 2])
    exec(LOOP.replace("mobilenetv3_small_100", "test_resnet"), {"timm": timm, "torch": torch, "loader": [batch] * 2})
    assert len(LOOP.splitlines()) <= 12
    fresh = timm.create_model("test_resnet", num_classes=10)
    fresh.load_state_dict(torch.load("student.pt", weights_only=True))


def test_every_verb_that_the_readme_calls_exists() -> None:
    called = set(re.findall(r"^crossdistill (\w+)", README, flags=re.MULTILINE))
    assert called and called <= set(VERBS)
