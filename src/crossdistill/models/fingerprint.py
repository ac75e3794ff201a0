"""A short name for the weights of a model, by which two runs know that they had the same teacher."""

import hashlib

import torch
from torch import nn


def weights_fingerprint(model: nn.Module) -> str:
    """Names, types and values of all parameters and buffers that are saved, in 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        # NumPy knows no bfloat16; bytes are bytes. A scalar has no bytes to view as, a vector of one has.
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()[:32]
