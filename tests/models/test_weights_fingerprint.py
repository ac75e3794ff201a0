import copy

import torch
from torch import nn

from crossdistill.models import weights_fingerprint


def test_weights_have_one_name_each() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    name = weights_fingerprint(model)
    same = copy.deepcopy(model).to(memory_format=torch.channels_last).eval()
    assert weights_fingerprint(same) == name
    changed = copy.deepcopy(model)
    changed[1].running_var[2] += 1e-6
    assert weights_fingerprint(changed) != name
    assert weights_fingerprint(copy.deepcopy(model).bfloat16()) != name
