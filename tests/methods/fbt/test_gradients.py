"""Who learns what in FBT."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from crossdistill.methods.fbt.fbt import FBT
from fbt.helpers import batch, make

PARTS: dict[str, Callable[[FBT], nn.Module]] = {
    "student front": lambda m: m.student.model.layer2,
    "student tail": lambda m: m.student.model.layer4,
    "student head": lambda m: m.student.model.fc,
    "block": lambda m: m.local_to_global,
    "projector": lambda m: m.projector,
}

# Student CNN, teacher ViT.
GRADIENTS = {
    "labels": {"student front", "student tail", "student head"},
    "teacher_to_student_features": {"student front", "student tail", "projector"},
    "teacher_to_student_logits": {"student front", "student tail", "student head"},
    "teacher_to_assistant_features": {"student front", "block"},
    "teacher_to_assistant_logits": {"student front", "block"},
    "assistant_to_student_features": {"student front", "student tail", "projector"},
    "assistant_to_student_logits": {"student front", "student tail", "student head"},
}


def receivers(method: FBT, term: Tensor, parts: dict[str, Callable[[FBT], nn.Module]]) -> set[str]:
    method.zero_grad(set_to_none=True)
    term.backward()
    moved = set()
    for name, part in parts.items():
        if any(p.grad is not None and p.grad.abs().sum() > 0 for p in part(method).parameters()):
            moved.add(name)
    return moved


@pytest.mark.parametrize("name", GRADIENTS)
def test_who_receives_gradient_from_a_term(name: str) -> None:
    method = make("vit", "cnn")
    assert receivers(method, method(*batch())[name], PARTS) == GRADIENTS[name]
    assert method.teacher is not None and all(p.grad is None for p in method.teacher.parameters())


def test_gradient_of_a_student_tail() -> None:
    parts: dict[str, Callable[[FBT], nn.Module]] = {
        "front": lambda m: m.student.model.blocks[0],
        "tail": lambda m: m.student.model.blocks[-1],
        "head": lambda m: m.student.model.head,
        "block": lambda m: m.local_to_global,
    }
    method = make("cnn", "vit")
    assert receivers(method, method(*batch())["teacher_to_assistant_logits"], parts) == {"tail", "head", "block"}
    assert receivers(method, method(*batch())["assistant_to_student_logits"], parts) == {"front", "tail", "head"}


def test_without_detaching_the_assistant_learns_from_the_student_too() -> None:
    method = make("vit", "cnn", detach_source=False)
    for kind in ("features", "logits"):
        assert "block" in receivers(method, method(*batch())[f"assistant_to_student_{kind}"], PARTS)


# An untrained teacher's class token hears little of the patches, so there is less to learn of it.
@pytest.mark.parametrize(("feature", "left"), [("map", 0.5), ("head", 0.7)])
def test_the_assistant_learns(feature: str, left: float) -> None:
    method = make("vit", "cnn", label_weight=0.0, feature=feature)
    images, labels = batch(8)
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    losses = []
    for _ in range(30):
        term = method(images, labels)["teacher_to_assistant_features"]
        optimizer.zero_grad()
        term.backward()
        optimizer.step()
        losses.append(term.item())
    assert losses[-1] < left * losses[0]
