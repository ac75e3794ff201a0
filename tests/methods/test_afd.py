"""AFD: against loops, the authors' values, and what the attention must do."""

import math

import pytest
import torch
from wave_maps import wave

from crossdistill.functional import afd_loss, at_loss
from crossdistill.methods.afd import AFD, StageAttention, _to_grid, energy
from crossdistill.testing import TINY, draw_batch, staged

ENERGIES, TEACHER = wave(2, 3, 5).abs() + 0.1, wave(2, 5, phase=0.4).abs() + 0.2
ATTENTION = wave(2, 3, phase=1.0).softmax(dim=1)


def test_by_loops() -> None:
    def unit(row: list[float]) -> list[float]:
        return [x / math.sqrt(sum(y * y for y in row)) for x in row]

    total = 0.0
    for image in range(2):
        theirs = unit(TEACHER[image].tolist())
        for stage in range(3):
            ours = unit(ENERGIES[image, stage].tolist())
            distance = sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / 5
            total += ATTENTION[image, stage].item() * distance
    assert afd_loss(ENERGIES, TEACHER, ATTENTION).item() == pytest.approx(total / 2, rel=1e-12)


# As the authors' code calls its parameters.
THEIRS = {
    "teacher_positions": "attention.p_t",
    "student_positions": "attention.p_s",
    "queries": "attention.linear_trans_t.query_layer",
    "keys": "attention.linear_trans_s.key_layer",
    "bilinear": "attention.linear_trans_s.bilinear",
    "norm": "bn",
}


def test_values_of_the_authors_code() -> None:
    """`AFD` of github.com/clovaai/attention-feature-distillation (distill/AFD.py), run on these inputs in float64."""
    student = [wave(2, 3, 8, 8, scale=1.1), wave(2, 5, 4, 4, phase=0.5)]
    teacher = [
        wave(2, 4, 8, 8, phase=0.3) + 0.2,
        wave(2, 6, 4, 4, phase=0.9, scale=0.7),
        wave(2, 6, 2, 2, phase=1.3),
    ]
    attention = StageAttention([3, 5], [4, 6, 6], width=4).double()
    with torch.no_grad():
        for name, parameter in attention.named_parameters():
            theirs = ".".join(THEIRS.get(part, part) for part in name.split("."))
            parameter.copy_(wave(*parameter.shape, phase=len(theirs) * 0.1, scale=0.8))
    weights = attention(student, teacher)
    found = []
    for t, feature in enumerate(teacher):
        size = (feature.shape[2], feature.shape[3])
        brought = torch.stack([_to_grid(energy(one), size).flatten(1) for one in student], dim=1)
        found.append(afd_loss(brought, energy(feature).flatten(1), weights[:, t]).item())
    assert found == pytest.approx([0.0018660711025876272, 0.0013493394865832335, 0.022239858757732576], rel=1e-10)


def test_of_one_stage_it_is_attention_transfer() -> None:
    ours, theirs = wave(2, 3, 4, 4), wave(2, 5, 4, 4, phase=0.3)
    loss = afd_loss(energy(ours).flatten(2), energy(theirs).flatten(1), torch.ones(2, 1, dtype=torch.float64))
    torch.testing.assert_close(loss, at_loss(ours, theirs))


def test_gradient_matches_finite_differences() -> None:
    inputs = (ENERGIES.clone().requires_grad_(), ATTENTION.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda e, a: afd_loss(e, TEACHER, a), inputs)


def test_attention_goes_to_the_stage_that_is_nearest() -> None:
    """Its gradient alone, with the student held still."""
    torch.manual_seed(0)
    student, teacher = [torch.rand(8, 4, 4, 4), torch.rand(8, 4, 4, 4)], [torch.rand(8, 4, 4, 4)]
    student[1] = teacher[0] + 0.01 * torch.rand(8, 4, 4, 4)
    attention = StageAttention([4, 4], [4], width=8)
    optimizer = torch.optim.Adam(attention.parameters(), lr=0.05)
    brought = torch.stack([energy(one).flatten(1) for one in student], dim=1)
    for _ in range(60):
        optimizer.zero_grad()
        loss = afd_loss(brought, energy(teacher[0]).flatten(1), attention(student, teacher)[:, 0])
        (1000 * loss).backward()
        optimizer.step()
    found = attention(student, teacher)
    torch.testing.assert_close(found.sum(dim=2), torch.ones(8, 1))
    assert found[:, 0, 1].min() > 0.9


def test_grids_are_the_teachers_and_one_position_teaches_nothing() -> None:
    method = AFD(staged("vit", TINY["vit"]), staged("cnn", TINY["cnn"])).train()
    images, labels = draw_batch()
    terms = method(images, labels)
    assert {"stage1", "stage2", "stage3", "stage4"} <= terms.keys()
    assert terms["stage4"].item() == pytest.approx(0.0, abs=1e-9) and terms["stage1"] > 0
    assert _to_grid(torch.tensor([[[[1.0, 2.0]]]]), (2, 4)).tolist() == [[[[1.0, 1.0, 2.0, 2.0]] * 2]]
