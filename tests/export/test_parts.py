"""The parts of an export: what it says of itself, how it is judged, calibrated, measured and uploaded."""

from pathlib import Path

import numpy as np
import pytest
import torch

from crossdistill.data import TensorSource
from crossdistill.errors import UserError
from crossdistill.export.backend import Runtime
from crossdistill.export.calibration import calibration_images
from crossdistill.export.card import ExportCard
from crossdistill.export.description import Description
from crossdistill.export.doctor import examine
from crossdistill.export.hub import check_hub, push_folder
from crossdistill.export.judge import Judgement, Reference, check_drop, judge
from crossdistill.export.measure import PYTORCH, measure


def test_a_description_is_ascii_whatever_a_class_is_called() -> None:
    about = Description("resnet18", (32, 48), ["caf\u00e9", "tab\there", "<&>", "bell\a"], note="stopped")
    text = about.to_json()
    assert text.isascii() and text.isprintable()
    assert Description.from_json(text) == about


def test_a_judgement_by_hand() -> None:
    labels = torch.tensor([0, 1, 1, 0])
    student = torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, 0.0], [4.0, 0.0]])
    teacher = torch.tensor([[0.0, 9.0], [0.0, 9.0], [0.0, 9.0], [9.0, 0.0]])
    changed = student + torch.tensor([[-2.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    alone = student.clone()
    alone[3, 0] += 3
    judged = Reference(labels, student, teacher).judge(changed, alone)
    # The first image is answered otherwise; the third was wrong and stays so.
    assert (judged.top1, judged.student_agreement, judged.teacher_agreement) == (50, 75, 75)
    assert (judged.largest_difference, judged.relative_difference) == (3, 0.75)


def judgement(top1: float, difference: float = 0.1) -> Judgement:
    return Judgement(100, top1, 99.0, None, difference, difference)


def test_what_may_be_lost() -> None:
    check_drop("onnx", judgement(80), judgement(79.5), 0.5)
    check_drop("onnx", judgement(80), judgement(85), 0)
    with pytest.raises(
        UserError, match=r"onnx int8: top-1 is 79.00 % and was 80.00 % .* 1.00 points lost, and --max_drop"
    ):
        check_drop("onnx int8", judgement(80), judgement(79), 0.5)
    with pytest.raises(UserError, match="points lost"):
        check_drop("onnx", judgement(80), judgement(80, float("nan")), 0.5)


def test_a_runtime_that_takes_one_batch_size_only() -> None:
    from crossdistill.data import EvalLoader

    def run(images: np.ndarray) -> np.ndarray:
        if len(images) != 1:
            raise RuntimeError("got invalid dimensions")
        return np.zeros((1, 2), np.float32)

    source = TensorSource(torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64))
    loader = EvalLoader(source, image_size=(8, 8), batch_size=5, device="cpu", workers=0)
    runtime = Runtime(run, "frozen 1.0", Description("x", (8, 8), []))
    with pytest.raises(UserError, match=r"onnx: frozen 1.0 fails on 5 image\(s\) at a time \(got invalid dimensions"):
        judge("onnx", runtime, loader, Reference(loader.labels, torch.zeros(5, 2), None))


def test_calibration_images_are_keyed_by_a_seed() -> None:
    pixels = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8)
    source = TensorSource(pixels, torch.zeros(20, dtype=torch.int64))
    first, again, other = (calibration_images(source, (8, 8), 6, seed) for seed in (0, 0, 1))
    assert all(image.shape == (1, 3, 8, 8) for image in first) and len(first) == 6
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    known = (pixels.float() / 255).numpy()
    assert all(any(np.allclose(image[0], one) for one in known) for image in first)
    with pytest.raises(UserError, match="needs training images"):
        calibration_images(source.subset(torch.tensor([], dtype=torch.int64)), (8, 8), 6, 0)


def test_measured_in_a_process_of_its_own(exported: tuple[ExportCard, Path], tmp_path: Path) -> None:
    card, output = exported
    found = measure("onnx", output / card.row("onnx").path, threads=1)
    assert found.threads == 1 and 0 < found.median_ms[1] <= found.p95_ms[1]
    assert found.median_ms[1] < found.median_ms[32]
    # Without torch, which alone takes more.
    assert 10e6 < found.peak_memory_bytes < 200e6
    with pytest.raises(RuntimeError, match="measuring absent.safetensors with pytorch failed"):
        measure(PYTORCH, tmp_path / "absent.safetensors", threads=1)


def test_the_hub_is_asked_only_for_what_it_can_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="add timm to --to"):
        check_hub("me/model", ["onnx"])
    with pytest.raises(UserError, match="give a repository as owner/name"):
        check_hub("model", ["timm"])
    check_hub("me/model", ["timm"])
    asked: list = []

    class Hub:
        def create_repo(self, repository: str, exist_ok: bool) -> None:
            asked.append((repository, exist_ok))

        def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> str:
            asked.append((repo_id, folder_path))
            return "https://hub/commit/1"

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert push_folder(tmp_path, "me/model") == "https://hub/commit/1"
    assert asked == [("me/model", True), ("me/model", tmp_path)]
    monkeypatch.setattr(Hub, "create_repo", lambda *_, **__: (_ for _ in ()).throw(OSError("401: log in")))
    with pytest.raises(UserError, match="the hub refused .401: log in.; the files are in"):
        push_folder(tmp_path, "me/model")


def test_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    from crossdistill.export import BACKENDS
    from crossdistill.export.torch_export import TorchExport

    monkeypatch.setattr("crossdistill.export.doctor.BACKENDS", {"torch": BACKENDS["torch"]})
    [found] = examine()
    assert (found.backend, found.state) == ("torch", "works") and found.said.startswith("torch ")
    monkeypatch.setattr(TorchExport, "missing", lambda *_, **__: "torch")
    assert examine()[0].said == "torch: pip install torch"
    monkeypatch.undo()
    monkeypatch.setattr("crossdistill.export.doctor.BACKENDS", {"torch": BACKENDS["torch"]})
    monkeypatch.setattr(TorchExport, "write", lambda *_: 1 / 0)
    assert (examine()[0].state, examine()[0].said) == ("fails", "ZeroDivisionError: division by zero")
