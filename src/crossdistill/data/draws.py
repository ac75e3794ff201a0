"""Random numbers that are functions of a key: no generator, no state, the same on every device and in every order.

A key is a 64-bit integer made of (data seed, epoch, image, repetition); numbers are the splitmix64 hash of the key and
a counter (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014). Integer arithmetic in
int64 wraps alike everywhere, so that an image gets the same draw whatever batch, process or device it is in.
"""

import torch
from torch import Tensor

# One stream per use, so that switching one augmentation on leaves the draws of the others as they were.
ORDER, CROP, FLIP, ERASE, TRANSFORM, MIX, SUBSET, CORRUPT, HOLD_OUT = range(9)


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    # int64 shifts keep the sign bit; the hash is defined on unsigned integers.
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _splitmix(z: Tensor) -> Tensor:
    z = z + _GOLDEN
    z = (z ^ _shift_right(z, 30)) * _FIRST
    z = (z ^ _shift_right(z, 27)) * _SECOND
    return z ^ _shift_right(z, 31)


def keys(stream: int, data_seed: int, epoch: int, indices: Tensor, repetitions: Tensor | int = 0) -> Tensor:
    """One int64 key per image, well mixed over all its parts.

    Args:
        stream: what the numbers are for, one of the constants of this module.
        data_seed: seed of the run's data.
        epoch: number of the epoch, or whatever else the numbers change with.
        indices: (B,) int64, positions of the images in the data set.
        repetitions: (B,) int64, which view of the image within the epoch.
    """
    z = torch.zeros_like(indices)
    for part in (stream, _signed(data_seed), epoch, indices, repetitions):
        z = _splitmix(z ^ part)
    return z


def uniforms(keys: Tensor, count: int) -> Tensor:
    """(count, B) numbers in [0, 1), float32, `count` independent ones for each of the (B,) keys."""
    counter = torch.arange(1, count + 1, device=keys.device)[:, None] * _GOLDEN
    return _shift_right(_splitmix(keys + counter), 40).float() * 2.0**-24


def permutation(count: int, data_seed: int, epoch: int, stream: int = ORDER) -> Tensor:
    """(count,) int64: a random order of `range(count)`."""
    return keys(stream, data_seed, epoch, torch.arange(count)).argsort(stable=True)


def seed_of(stream: int, data_seed: int, epoch: int, index: int = 0, repetition: int = 0) -> int:
    """The key of one image as a non-negative Python integer below 2**63, to seed an ordinary generator with."""
    return int(keys(stream, data_seed, epoch, torch.tensor([index]), repetition)) & ((1 << 63) - 1)
