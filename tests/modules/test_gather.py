"""Two processes: each has half of the batch, and the gradient is that of the whole."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossdistill.distiller import Distiller
from crossdistill.methods import build_distiller
from crossdistill.options import MethodOptions
from crossdistill.testing import TINY, draw_batch, staged, total

# Every method that looks at the images of a batch together; a ViT has no batch norm, which would too.
METHODS: dict[str, dict[str, Any]] = {
    "fbt": {"detach_source": False},
    "dist": {},
    "rkd": {},
    "sp": {},
    "pkt": {},
    "cc": {},
    "crd": {},
}
STEPS = 2


def make(name: str) -> Distiller:
    student, teacher = staged("vit", TINY["vit"]), staged("cnn", TINY["cnn"])
    torch.manual_seed(0)
    return build_distiller(MethodOptions(name, METHODS[name]), student, teacher, train_size=9).train()


def two_steps(method: Distiller, rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
    """The sums of the gradients of two steps, as `DistributedDataParallel` averages them, and the buffers."""
    for step in range(STEPS):
        images, labels = draw_batch(6, seed=step)
        # Image 3 comes twice, once for each process.
        indices = torch.tensor([[0, 3, 2], [3, 4, 5]]).flatten() + step
        share = slice(6 // world_size * rank, 6 // world_size * (rank + 1))
        total(method(images[share], labels[share], indices=indices[share])).backward()
    found = {name: p.grad for name, p in method.named_parameters() if p.requires_grad and p.grad is not None}
    if world_size > 1:
        for gradient in found.values():
            torch.distributed.all_reduce(gradient)
            gradient /= world_size
    return found | {name: buffer for name, buffer in method.named_buffers() if not name.startswith("teacher.")}


def run_process(rank: int, address: str, output: str) -> None:
    """What each of the two processes does."""
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.save({name: two_steps(make(name), rank, 2) for name in METHODS}, f"{output}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_gradients_and_the_memory_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    # Where this module is, for the processes too.
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    code = "import sys, test_gather; test_gather.run_process(int(sys.argv[1]), *sys.argv[2:])"
    commands = [[sys.executable, "-c", code, str(rank), address, str(tmp_path)] for rank in (0, 1)]
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    of_each = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name in METHODS:
        for part, expected in two_steps(make(name)).items():
            first, second = (of_each[rank][name][part] for rank in (0, 1))
            assert torch.equal(first, second), f"{name}: {part} differs between the processes"
            torch.testing.assert_close(first, expected, rtol=1e-3, atol=1e-5, msg=f"{name}: {part} is another")
