"""Where in the image the stages of a model respond."""

import torch
from torch import Tensor

from crossdistill.staged import Outputs, StagedModel
from crossdistill.staged.modes import eval_mode


def position_energy(feature: Tensor) -> Tensor:
    """(B, H, W) each position's share of an image's energy, the sum of squares over channels; from (B, C, H, W)."""
    energy = feature.float().square().sum(dim=1)
    return energy / energy.sum(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def spread(energy: Tensor) -> Tensor:
    """(B,) the share of the positions that the energy is spread over: 1 where all respond alike, 1 / (H W) where one.

    It is the participation ratio, 1 / (H W sum of squared shares).

    Args:
        energy: (B, H, W) shares of an image.
    """
    squares = energy.square().sum(dim=(1, 2)).clamp(min=torch.finfo(torch.float32).tiny)
    return 1 / (energy[0].numel() * squares)


def activation_map_refusal(model: StagedModel) -> str:
    """Why a model has no class-activation maps; "" if it has."""
    if not model.num_classes:
        return "it has no head"
    return "" if model.pools_mean else model.segments_refusal


def class_activation_maps(model: StagedModel, images: Tensor, classes: Tensor) -> tuple[Tensor, Outputs]:
    """How much each place of the last map that an answer is made from speaks for a class.

    Gradient times activation, summed over channels (HiResCAM: Draelos, Carin, arXiv 2011.08891). Of a model that pools
    its final map, that map counts: behind a mean and a linear layer it is the class-activation map of Zhou et al. (CVPR
    2016), whose sum is the logit without its bias. A class token reads no patch behind its last block, so of other
    models it is the map that enters the last stage, and the gradient goes back through this stage.

    Args:
        model: one without an `activation_map_refusal`; is run in eval mode.
        images: (B, 3, H, W) in [0, 1].
        classes: (B,) the class that is asked about, for each image.

    Returns:
        (B, H', W') on the grid of that map, and the outputs.
    """
    with eval_mode(model):
        with torch.no_grad():
            outputs = model(images)
            if model.pools_mean:
                place, prefix = outputs.final, None
            elif len(model.stages) > 1:
                place, prefix = outputs.features[-2], outputs.prefix[-2]
            else:
                place, prefix = model.enter(images)
        place = place.detach().requires_grad_()
        with torch.enable_grad():
            if model.pools_mean:
                heads = [model.dense_logits(place, head).mean(dim=(2, 3)) for head in model.heads]
                logits = torch.stack(heads).mean(dim=0)
            else:
                logits = model.run_from(len(model.stages) - 1, place, prefix).logits
            (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), place)
    return (gradient * place).sum(dim=1).detach(), outputs
