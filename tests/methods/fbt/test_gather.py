"""Two processes: each has half of the batch, and the gradient is that of the whole."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from crossdistill.testing import total
from fbt.helpers import batch, make

HALF_A_BATCH = """
import sys
import torch, torch.distributed as dist
from crossdistill.testing import total
from fbt.helpers import batch, make

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2)
method = make("cnn", "vit", detach_source=False)
images, labels = batch(6)
total(method(images[3 * rank : 3 * rank + 3], labels[3 * rank : 3 * rank + 3])).backward()
gradients = {}
for name, parameter in method.named_parameters():
    if parameter.requires_grad:
        dist.all_reduce(parameter.grad)
        gradients[name] = parameter.grad / 2
if rank == 0:
    torch.save(gradients, sys.argv[3])
dist.barrier()
dist.destroy_process_group()
"""


def test_two_processes_have_the_gradient_of_one(tmp_path: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    # Where the package of `fbt.helpers` is, for the processes too.
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    saved = tmp_path / "gradients.pt"
    commands = [[sys.executable, "-c", HALF_A_BATCH, str(rank), address, str(saved)] for rank in (0, 1)]
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    method = make("cnn", "vit", detach_source=False)
    total(method(*batch(6))).backward()
    gradients = torch.load(saved, weights_only=True)
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)
