"""`torch.export`: a graph that PyTorch runs without the code of the model."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from crossdistill.export.backend import Backend, Runtime, described
from crossdistill.export.description import KEY, Description

if TYPE_CHECKING:
    from crossdistill.staged import StagedModel

# Of an archive's extra files.
_METADATA = f"{KEY}.json"


class TorchExport(Backend):
    """A `.pt2` archive, for `torch.export.load`."""

    name = "torch"
    modules: ClassVar = {"torch": "torch"}
    install = "pip install torch"

    def write(self, student: "StagedModel", description: Description, folder: Path) -> Path:
        import torch

        from crossdistill.export.program import exported_program

        path = folder / "model.pt2"
        torch.export.save(exported_program(student), path, extra_files={_METADATA: description.to_json()})
        return path

    def open(self, path: Path, threads: int | None = None) -> Runtime:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        extra = {_METADATA: ""}
        module = torch.export.load(path, extra_files=extra).module()

        def run(images: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return module(torch.from_numpy(images)).numpy()

        return Runtime(run, f"torch {torch.__version__}", described(extra[_METADATA], path))
