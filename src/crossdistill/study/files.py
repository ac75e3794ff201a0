"""Where studies come from: files, and those that ship with the package."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from crossdistill.errors import UserError, nearest
from crossdistill.study.study import Study

_SHIPPED = Path(__file__).parent / "studies"
_ASSET = "asset:"


def shipped_studies() -> list[str]:
    """Names of the studies that ship with the package."""
    return sorted(file.stem for file in _SHIPPED.glob("*.yaml"))


def read_study(name: str | Path) -> Study:
    """A study by its file, or by its name if it ships with the package.

    Raises:
        UserError: there is none, or it is no study.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        shipped = shipped_studies()
        if str(name) not in shipped:
            told = nearest(str(name), shipped)
            raise UserError(f"'{name}' is neither a file nor a shipped study{told} (see: crossdistill studies)")
        path = _SHIPPED / f"{name}.yaml"
    return Study.from_dict(read_yaml(path), str(name))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        # jsonargparse's loader, because plain YAML 1.1 reads 1e-3 as text.
        values = get_loader("yaml")(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"'{path}' is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"'{path}' is no study, which is fields and values such as `rows: [scratch, kd]`")
    return values


def asset(weights: str) -> str:
    """The file that `asset:NAME` stands for, a teacher that ships with the package; other texts as they are.

    Raises:
        UserError: there is no such file.
    """
    if not weights.startswith(_ASSET):
        return weights
    folder = files("crossdistill") / "assets"
    name = weights.removeprefix(_ASSET)
    names = [file.name for file in folder.iterdir()]
    if name not in names:
        raise UserError(f"teacher_weights: there is no '{weights}'{nearest(name, names)}")
    with as_file(folder / name) as path:
        return str(path)
