"""Modes for a while leave a model as it was."""

import torch
from torch import nn

from crossdistill.staged.modes import eval_mode, unchanged_statistics


class Keeper(nn.Module):
    """Like some of timm's attention modules: keeps something for evaluation and throws it away in `train()`."""

    kept = 0

    def train(self, mode: bool = True) -> "Keeper":
        super().train(mode)
        if mode:
            self.kept = 0
        return self


def test_every_part_is_in_its_own_mode_again() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), Keeper()), Keeper())
    model[1].eval()
    modes = [module.training for module in model.modules()]
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
        model[2].kept = 1
    assert modes == [module.training for module in model.modules()]
    assert model[2].kept == 0
    with eval_mode(model.eval()):
        model[2].kept = 1
    assert model[2].kept == 1 and not model.training


def test_statistics_stay_and_outputs_are_those_of_training() -> None:
    norm = nn.BatchNorm1d(2)
    values = torch.randn(8, 2)
    with unchanged_statistics(norm):
        inside = norm(values)
    assert torch.equal(norm.running_mean, torch.zeros(2)) and norm.num_batches_tracked == 0
    assert torch.equal(inside, norm(values)) and norm.num_batches_tracked == 1
