"""The device that a verb runs on."""

from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from crossdistill.errors import UserError

if TYPE_CHECKING:
    import torch


def add_accelerator_option(parser: ArgumentParser, meaning: str = "where it runs") -> None:
    """Add `--accelerator`, with what `--help` says of it."""
    parser.add_argument("--accelerator", choices=["auto", "cpu", "cuda", "mps"], default="auto", help=meaning)


def find_device(accelerator: str) -> "torch.device":
    """The device that `--accelerator` names.

    Raises:
        UserError: this machine has none of the kind.
    """
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    if accelerator == "cpu" or (accelerator == "auto" and found is None):
        return torch.device("cpu")
    if found is None or accelerator not in ("auto", found.type):
        raise UserError(f"--accelerator {accelerator}: this machine has {found.type if found else 'cpu'} only")
    return found
