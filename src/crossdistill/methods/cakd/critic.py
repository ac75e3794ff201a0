"""Critics that tell a teacher's features from a student's, and the student's loss against them.

With D the probability that an input is the teacher's, the critic minimises

    L_D = mean(-log D(real)) + mean(-log(1 - D(fake)))

and the student, in the non-saturating form of Goodfellow et al. (2014, arXiv 1406.2661, section 3), mean(-log D(fake)).
The form log(1 - D(fake)) has the same fixed point, but hardly any gradient as long as the critic wins.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


class Discriminator(nn.Module):
    """A critic: `critic(real, fake)` is its own loss L_D.

    Args:
        score: logit of D for each part of an input (each token, say), of any shape.
    """

    def __init__(self, score: nn.Module) -> None:
        super().__init__()
        self.score = score

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """L_D for a detached batch of the teacher's and one of the student's."""
        return F.softplus(-self.score(real)).mean() + F.softplus(self.score(fake)).mean()


def adversarial_loss(critic: Discriminator, fake: Tensor) -> Tensor:
    """mean(-log D(fake)). Gradient goes through the critic to `fake`, and none is left in the critic's parameters."""
    frozen = {name: parameter.detach() for name, parameter in critic.score.named_parameters()}
    return F.softplus(-functional_call(critic.score, frozen, (fake,))).mean()


class TokenScore(nn.Sequential):
    """Three linear layers on every token, D -> D/2 -> D/4 -> 1.

    Args:
        channels: D.
    """

    def __init__(self, channels: int) -> None:
        half, quarter = max(1, channels // 2), max(1, channels // 4)
        super().__init__(
            nn.Linear(channels, half),
            nn.LeakyReLU(0.2),
            nn.Linear(half, quarter),
            nn.LeakyReLU(0.2),
            nn.Linear(quarter, 1),
        )


class PatchScore(nn.Module):
    """A PatchGAN on maps of one channel: convolutions of stride 2, two more of stride 1, the mean over patches.

    The published network normalises over the batch; instances are normalised here, so that the student's pass moves no
    running statistics of the critic and a batch of one can be scored.

    Args:
        width: channels behind the first convolution.
        layers: convolutions of stride 2; the width doubles with each.
    """

    # Below this side nothing would be left of a map behind the convolutions.
    smallest_side = 24

    def __init__(self, width: int = 8, layers: int = 3) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(1, width, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            stride = 2 if i < layers - 1 else 1
            parts += [
                nn.Conv2d(inputs, outputs, kernel_size=4, stride=stride, padding=1, bias=False),
                nn.InstanceNorm2d(outputs),
                nn.LeakyReLU(0.2),
            ]
        parts.append(nn.Conv2d(widths[-1], 1, kernel_size=4, padding=1))
        self.layers = nn.Sequential(*parts)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B,)."""
        if min(maps.shape[2:]) < self.smallest_side:
            maps = F.interpolate(maps, [max(self.smallest_side, side) for side in maps.shape[2:]])
        return self.layers(maps).mean(dim=(1, 2, 3))
