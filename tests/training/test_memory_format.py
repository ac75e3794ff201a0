"""Memory order: no other results, and the faster one by measurement."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from helpers import metrics, quiet_run, tiny_options

from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import SIDE, tiny_cnn, tiny_vit
from crossdistill.training import distill, run
from crossdistill.training.memory_format import MemoryFormats, measure_memory_formats


def test_channels_last_changes_nothing_but_the_order_of_sums(image_folder: Path, tmp_path: Path) -> None:
    quiet_run(tiny_options(image_folder, tmp_path / "a", max_steps=2, log_every=1))
    quiet_run(tiny_options(image_folder, tmp_path / "b", max_steps=2, log_every=1, channels_last="true"))
    for one, two in zip(metrics(tmp_path / "a"), metrics(tmp_path / "b"), strict=True):
        if one["kind"] == "train":
            assert one["loss"] == pytest.approx(two["loss"], rel=1e-3)


def test_the_faster_memory_order_is_taken_recorded_and_kept_on_resume(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def measured(student: StagedModel, teacher: StagedModel | None, batch_size: int) -> MemoryFormats:
        asked.append(f"{teacher and teacher.name} {batch_size}")
        return MemoryFormats(contiguous=2.0, channels_last=1.0)

    monkeypatch.setattr(run, "measure_memory_formats", measured)
    options = tiny_options(image_folder, tmp_path / "run", max_steps=2, channels_last="auto")
    assert distill(options)["channels_last"] is True
    assert asked == ["vit_tiny_patch16_224 12"]
    told = "channels-last 1000 ms, contiguous 2000 ms a batch: --channels_last true"
    assert told in " ".join(capsys.readouterr().out.split())
    recorded = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recorded["channels_last"] == "true"
    (tmp_path / "run" / "summary.json").unlink()
    assert quiet_run(replace(options, resume=True))["channels_last"] is True
    assert len(asked) == 1


def test_timing_memory_orders_leaves_models_and_random_numbers_alone() -> None:
    student = StagedModel(tiny_cnn(), name="test_resnet", image_size=SIDE)
    teacher = StagedModel(tiny_vit(), name="vit", image_size=SIDE)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    state = torch.random.get_rng_state()
    found = measure_memory_formats(student, teacher, 4)
    assert found.contiguous > 0 and found.channels_last > 0
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert student.training and all(parameter.grad is None for parameter in student.parameters())
