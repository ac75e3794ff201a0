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
    """How much each place speaks for a class.

    The gradient of the class's logit at a map, times what stands there less the mean over positions, summed over
    channels: to first order, what the logit would lose if the place said what places say on average. (Gradient times
    activation is HiResCAM: Draelos, Carin, arXiv 2011.08891. Without the mean it says nothing of a Transformer: behind
    a layer norm the gradient is at right angles to what was normalised.)

    Of a model that pools the mean of its final map, that is the map; behind a linear head the outcome is the
    class-activation map of Zhou et al. (CVPR 2016), less its mean. A class token reads no patch of the final map, and
    patches have given away much of their place by then; so of other models it is the map that enters the first stage.

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
            place, prefix = (outputs.final, None) if model.pools_mean else model.enter(images)
        place = place.detach().requires_grad_()
        with torch.enable_grad():
            if model.pools_mean:
                heads = [model.dense_logits(place, head).mean(dim=(2, 3)) for head in model.heads]
                logits = torch.stack(heads).mean(dim=0)
            else:
                logits = model.run_from(0, place, prefix).logits
            (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), place)
        place = place.detach()
    return (gradient * (place - place.mean(dim=(2, 3), keepdim=True))).sum(dim=1), outputs
