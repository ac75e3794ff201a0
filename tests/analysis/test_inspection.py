"""What `crossdistill inspect` shows."""

import io

import pytest
import timm
import torch
from rich.console import Console

from crossdistill.analysis import inspection
from crossdistill.analysis.inspection import Timing, inspect_pair, pair_stages
from crossdistill.distiller import Distiller
from crossdistill.errors import UserError
from crossdistill.models import build_model
from crossdistill.options import ModelOptions
from crossdistill.staged import StagedModel


class Unfit(Distiller):
    """A method that fits no pair."""

    def __init__(self, student: StagedModel, teacher: StagedModel) -> None:
        super().__init__(student, teacher)
        raise UserError(f"unfit: {student.name} is not for this method")


UNFIT = f"{Unfit.__module__}.Unfit"


@pytest.fixture(scope="module")
def vit() -> StagedModel:
    return build_model(ModelOptions("test_vit", {"img_size": 32, "patch_size": 8}), num_classes=5, role="teacher")


@pytest.fixture(scope="module")
def cnn() -> StagedModel:
    return build_model(ModelOptions("test_resnet"), num_classes=5, image_size=(32, 32))


def test_costs_and_refusals(vit: StagedModel, cnn: StagedModel) -> None:
    inspection = inspect_pair(vit, cnn, ["scratch", "kd", UNFIT, "ofa"])
    scratch, kd, unfit, ofa = inspection.methods
    assert (scratch.extra_parameters, scratch.macs) == (0, inspection.student.macs)
    assert (kd.extra_parameters, kd.macs) == (0, inspection.student.macs + inspection.teacher.macs)
    assert unfit.refusal == "unfit: test_resnet is not for this method"
    assert ofa.extra_parameters > 0 and ofa.macs > kd.macs and ofa.refusal == ""


def test_multiply_accumulates_of_a_known_layer() -> None:
    model = build_model(ModelOptions("resnet18"), num_classes=10, image_size=(64, 64))
    sizes = {"": 16, "layer1": 16, "layer2": 8, "layer3": 4, "layer4": 2}
    expected = 10 * 512
    for name, module in timm.create_model("resnet18").named_modules():
        if isinstance(module, torch.nn.Conv2d):
            side = 32 if name == "conv1" else sizes[name.partition(".")[0]]
            expected += module.weight.numel() * side**2
    assert inspect_pair(model, model, []).student.macs == expected


def test_the_models_are_left_as_they_were(vit: StagedModel, cnn: StagedModel) -> None:
    cnn.train()
    before = {name: tensor.clone() for name, tensor in cnn.state_dict().items()}
    random_state = torch.get_rng_state()
    inspect_pair(vit, cnn, ["kd", "ofa"])
    assert all(torch.equal(before[name], tensor) for name, tensor in cnn.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())
    assert cnn.training and all(parameter.grad is None for parameter in cnn.parameters())


def test_stages_are_matched_from_the_end(vit: StagedModel, cnn: StagedModel) -> None:
    assert pair_stages(vit.stages, cnn.stages) == list(zip(vit.stages, cnn.stages, strict=True))
    pairs = pair_stages(vit.stages, cnn.stages[1:])
    assert pairs[0] == (vit.stages[0], None) and pairs[-1] == (vit.stages[-1], cnn.stages[-1])


def test_the_tables_tell_all_of_it(vit: StagedModel, cnn: StagedModel) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(inspect_pair(vit, cnn, ["kd", UNFIT]))
    text = console.export_text()
    for stage in (*vit.stages, *cnn.stages):
        assert stage.path in text
    assert "test_vit" in text and "test_resnet" in text and "32x32" in text and "64@4x4 +1" in text
    assert "--stem_stride 1 makes it 4x4" in " ".join(text.split())
    assert "unfit: test_resnet is not for this method" in " ".join(text.split())


def test_what_cannot_be_inspected_is_refused(vit: StagedModel, cnn: StagedModel) -> None:
    with pytest.raises(UserError, match="unknown method 'kdd'"):
        inspect_pair(vit, cnn, ["kdd"])
    headless = build_model(ModelOptions("test_resnet", {"num_classes": 0}), num_classes=None, image_size=(32, 32))
    with pytest.raises(UserError, match="has no head"):
        inspect_pair(vit, headless, ["kd"])


def test_an_epochs_time_follows_from_a_steps(
    vit: StagedModel, cnn: StagedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    def seconds(distiller: Distiller, batch_size: int) -> float:
        batches.append(batch_size)
        return 0.25

    monkeypatch.setattr(inspection, "seconds_per_step", seconds)
    found = inspect_pair(vit, cnn, ["kd", UNFIT], Timing(batch_size=4, train_images=4800))
    assert [method.seconds for method in found.methods] == [0.25, None] and batches == [4]
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(found)
    text = console.export_text()
    (row,) = [line for line in text.splitlines() if "kd " in line]
    # 1,200 steps.
    assert "250 ms" in row and "5.0 min" in row
    assert "training on 4 images" in text and "4,800 images (--train_images)" in text and "cpu (threads:" in text


def test_too_little_memory_for_a_step_is_the_users_to_mend(
    vit: StagedModel, cnn: StagedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(distiller: Distiller, batch_size: int) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(inspection, "seconds_per_step", full)
    with pytest.raises(UserError, match="too little memory for a step of KD: lower --batch_size"):
        inspect_pair(vit, cnn, ["kd"], Timing())
