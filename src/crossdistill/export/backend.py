"""What a backend of `export` does."""

import importlib.util
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from crossdistill.errors import UserError, nearest
from crossdistill.export import BACKENDS
from crossdistill.export.description import Description
from crossdistill.imports import import_object

if TYPE_CHECKING:
    from crossdistill.staged import StagedModel

# What opens a file, by its ending.
_OPENS = {".onnx": "onnx", ".xml": "openvino", ".pte": "executorch", ".pt2": "torch"}
# An operator of torch, as exporters name it.
_OPERATOR = re.compile(r"\b(?:aten|torchvision|prims|torch_ipex)[.:]{1,2}[A-Za-z_]\w*(?:\.\w+)?")


@dataclass
class Runtime:
    """A file, open in the program that will run it.

    Attributes:
        run: images, (B, 3, H, W) float32 in [0, 1], to logits (B, K) float32.
        version: name and version of the program.
        description: what the file says of itself.
    """

    run: Callable[[np.ndarray], np.ndarray]
    version: str
    description: Description


class Backend(ABC):
    """A format: how it is written and opened.

    Class attributes:
        name: as in `--to`.
        modules: what must be importable, by the name of its distribution.
        int8_modules: what `write_int8` needs beside.
        install: the command that installs all that.
    """

    name: ClassVar[str]
    modules: ClassVar[dict[str, str]]
    int8_modules: ClassVar[dict[str, str]] = {}
    install: ClassVar[str]

    def missing(self, *, int8: bool = False) -> str:
        """Names of the distributions that are not installed, joined; empty where all are."""
        modules = self.modules | (self.int8_modules if int8 else {})
        return ", ".join(name for name, module in modules.items() if importlib.util.find_spec(module) is None)

    def check_installed(self, *, int8: bool = False) -> None:
        """Raises a `UserError` with the command that installs what is missing."""
        if missing := self.missing(int8=int8):
            raise UserError(f"the backend {self.name} needs {missing}, not installed here: {self.install}")

    def versions(self) -> str:
        """Names and versions of what is installed of it."""
        return ", ".join(f"{name} {version(name)}" for name in self.modules)

    def check(self, student: "StagedModel", description: Description) -> None:  # noqa: B027
        """Refuse a student that the format cannot hold, by a `UserError` that says what to use in its place."""

    def int8_refusal(self, student: "StagedModel") -> str:
        """Why there is no int8 of this student; empty where there is."""
        return "this format is written in float32 only"

    @abstractmethod
    def write(self, student: "StagedModel", description: Description, folder: Path) -> Path:
        """Write the student.

        Args:
            student: in eval mode, on the CPU.
            description: goes into the file's metadata.
            folder: empty, for this backend alone.

        Returns:
            What `open` takes: the file, or the folder where it is all of it that counts.
        """

    def write_int8(
        self, path: Path, student: "StagedModel", images: Sequence[np.ndarray], description: Description
    ) -> Path:
        """Write an int8 form beside the float32 one, where `int8_refusal` says nothing.

        Args:
            path: what `write` returned.
            student: as for `write`.
            images: (1, 3, H, W) float32 in [0, 1] each, to calibrate with.
            description: goes into the file's metadata.
        """
        raise AssertionError(f"{self.name} {self.int8_refusal(student)}")

    @abstractmethod
    def open(self, path: Path, threads: int | None = None) -> Runtime:
        """Open what was written.

        Args:
            path: as `write` and `write_int8` return it.
            threads: CPU threads; None leaves it to the runtime.

        Raises:
            UserError: another program wrote it, so that nothing says what its input is.
        """


def load_backend(name: str) -> Backend:
    """The backend of a name.

    Raises:
        UserError: there is none; tells the nearest.
    """
    if name not in BACKENDS:
        raise UserError(f"--to {name}: there is no such backend{nearest(name, BACKENDS)} ({', '.join(BACKENDS)})")
    return import_object(BACKENDS[name])()


def opens(path: str | Path) -> bool:
    """Whether a file is of a format that `open_exported` opens, by its ending."""
    return Path(path).suffix in _OPENS


def open_exported(path: str | Path, threads: int | None = None) -> Runtime:
    """Open an exported file in its runtime.

    Args:
        path: `.onnx`, `.xml` (OpenVINO, with its `.bin` beside), `.pte` or `.pt2`.
        threads: CPU threads; None leaves it to the runtime.

    Raises:
        UserError: no such file, the runtime is not installed, a damaged file, or one of another program.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file '{path}': check the path")
    backend = load_backend(_OPENS[path.suffix])
    backend.check_installed()
    try:
        return backend.open(path, threads)
    except UserError:
        raise
    except Exception as error:
        # A damaged file fails in as many ways as there are runtimes.
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"'{path}' cannot be opened by {backend.name}: it may be damaged ({reason})") from error


def described(text: str | None, path: Path) -> Description:
    """What a file's metadata say.

    Raises:
        UserError: nothing of ours is in them.
    """
    try:
        return Description.from_json(text or "")
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"'{path}' does not say what its input is and its classes are: give a file that `crossdistill export` wrote"
        ) from error


def why_not_written(error: Exception, backend: Backend, model: str) -> UserError:
    """What is told of an exporter that failed: the operator that it lacks, where it names one.

    Exporters raise anything, and put what matters at the end of a chain of causes.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for cause in reversed(chain):
        operator = _OPERATOR.search(str(cause))
        if operator:
            return UserError(
                f"{backend.name} cannot express the operator {operator[0]} of {model}: leave {backend.name} out of --to"
            )
    told = " ".join(str(chain[-1]).split())[:200] or type(chain[-1]).__name__
    return UserError(f"{backend.name} cannot write {model} ({told}): leave {backend.name} out of --to")
