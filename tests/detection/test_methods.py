"""The methods teach detectors through the seam, unchanged; what they lack is refused by the declarations."""

from typing import Any

import pytest
import torch

from crossdistill.errors import UserError
from crossdistill.methods import build_distiller
from crossdistill.options import MethodOptions
from crossdistill.testing import TINY, staged
from detection.test_detector import TARGETS
from detection.tiny import tiny_detector

PAT = {"prompt_stages": [], "logit_weight": 0.0, "num_queries": 100, "width": 16, "heads": 2}
TAUGHT: dict[str, dict[str, Any]] = {
    "pkd": {},
    "fitnet": {},
    "at": {},
    "nst": {},
    "sp": {},
    "vid": {},
    "reviewkd": {},
    "ofd": {},
    "pkt": {},
    "foundation": {"label_weight": 1.0},
    "pat": PAT,
}
REFUSED = ("kd", "dkd", "dist", "ofa", "deit", "fbt", "cskd", "pat")


def one_step(method: str, hyperparameters: dict, student: Any, teacher: Any) -> dict[str, torch.Tensor]:
    distiller = build_distiller(MethodOptions(method, hyperparameters), student, teacher, train_size=10).train()
    images = torch.rand(2, 3, 64, 64)
    distiller.prepare([images])
    terms = distiller(images, TARGETS, indices=torch.arange(2))  # type: ignore[arg-type]
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(term) for term in terms.values())
    assert [n for n, p in distiller.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad is None for p in teacher.parameters())
    return terms


@pytest.mark.parametrize("method", TAUGHT)
def test_a_cnn_learns_from_a_vit(method: str) -> None:
    terms = one_step(method, TAUGHT[method], tiny_detector("cnn"), tiny_detector("vit"))
    # torchvision's own terms under their names, and the method's.
    assert {"classification", "bbox_regression", "bbox_ctrness"} < terms.keys()


@pytest.mark.parametrize("method", ["pkd", "pat"])
def test_a_vit_learns_from_a_cnn(method: str) -> None:
    terms = one_step(method, TAUGHT[method], tiny_detector("vit", "faster_rcnn"), tiny_detector("cnn", "faster_rcnn"))
    # All five levels, p2 to p6.
    assert {f"stage{k}" for k in range(1, 6)} < terms.keys()


def test_pat_has_25_tokens_a_level() -> None:
    distiller: Any = build_distiller(MethodOptions("pat", PAT), tiny_detector("cnn"), tiny_detector("vit"))
    features = distiller.student(torch.rand(1, 3, 64, 64)).features
    assert [tokens.shape[1] for tokens in distiller.regions(features)] == [25] * 5


def test_cakd_reads_the_attention_of_the_teachers_backbone() -> None:
    terms = one_step("cakd", {}, tiny_detector("cnn"), tiny_detector("vit"))
    assert {"attention", "gram", "gl", "adversarial"} < terms.keys()
    with pytest.raises(UserError, match="no attention"):
        build_distiller(MethodOptions("cakd"), tiny_detector("vit"), tiny_detector("cnn"))


def test_a_backbone_without_a_detector_teaches_too() -> None:
    one_step("foundation", {"label_weight": 1.0}, tiny_detector("cnn"), staged("vit", TINY["vit"]))
    one_step("pkd", {}, tiny_detector("cnn"), staged("vit", TINY["vit"]))


@pytest.mark.parametrize("method", REFUSED)
def test_what_a_detector_lacks_is_refused_in_one_line(method: str) -> None:
    with pytest.raises(UserError) as caught:
        build_distiller(MethodOptions(method), tiny_detector("cnn"), tiny_detector("vit"), train_size=10)
    assert "is a detector" in str(caught.value) and "\n" not in str(caught.value)
