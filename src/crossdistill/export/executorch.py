"""ExecuTorch, for phones and other small machines, with the operators of XNNPACK."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from crossdistill.export.backend import Backend, Runtime, described
from crossdistill.export.description import KEY, Description

if TYPE_CHECKING:
    from crossdistill.staged import StagedModel

# Memory is planned ahead, for so many images at most.
LARGEST_BATCH = 32


class ExecuTorch(Backend):
    """A `.pte` program; its method `crossdistill` gives the description."""

    name = "executorch"
    modules: ClassVar = {"executorch": "executorch"}
    install = "pip install 'crossdistill[executorch]'"

    def write(self, student: "StagedModel", description: Description, folder: Path) -> Path:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        from crossdistill.export.program import exported_program

        logging.getLogger("executorch").setLevel(logging.ERROR)
        lowered = to_edge_transform_and_lower(
            exported_program(student, LARGEST_BATCH),
            partitioner=[XnnpackPartitioner()],
            constant_methods={KEY: description.to_json()},
        )
        path = folder / "model.pte"
        path.write_bytes(lowered.to_executorch().buffer)
        return path

    def open(self, path: Path, threads: int | None = None) -> Runtime:
        import torch
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime as ExecuTorchRuntime

        if threads is not None:
            portable_lib._unsafe_reset_threadpool(threads)
        program = ExecuTorchRuntime.get().load_program(path)
        text = program.load_method(KEY).execute([])[0] if KEY in program.method_names else None
        method = program.load_method("forward")

        def run(images: np.ndarray) -> np.ndarray:
            # Copied: the runtime writes the next answer to the same place.
            return method.execute([torch.from_numpy(images)])[0].numpy().copy()

        return Runtime(run, self.versions(), described(text, path))
