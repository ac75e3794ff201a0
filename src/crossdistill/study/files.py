"""Where studies come from: files and what these are based on, and those that ship with the package."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from crossdistill.errors import UserError, nearest
from crossdistill.study.study import Study

_PACKAGE = Path(__file__).parent.parent
_STUDIES = _PACKAGE / "study" / "studies"
_RECIPES = _PACKAGE / "recipes"
_ASSET = "asset:"
_BASE = "base"


def shipped_studies() -> list[str]:
    """Names of the studies that ship with the package."""
    return _names(_STUDIES)


def shipped_recipes() -> list[str]:
    """Names of the published experiments that ship with the package, which are studies too."""
    return _names(_RECIPES)


def read_study(name: str | Path) -> Study:
    """A study by its file, or by its name if it ships with the package.

    The file's field `base` names files, beside it, or shipped studies that it is based on; of several a later one
    overrules, and the file overrules all.

    Raises:
        UserError: there is none, it is no study, or its bases lead back to it.
    """
    layers: list[tuple[dict[str, Any], str]] = []
    _read_layers(_find(str(name), Path(), ""), str(name), layers, ())
    return Study.from_layers(layers)


def _names(folder: Path) -> list[str]:
    # What begins with an underscore is a base of others, and no study by itself.
    return sorted(file.stem for file in folder.glob("*.yaml") if not file.stem.startswith("_"))


def _find(name: str, folder: Path, where: str) -> Path:
    """The file of a study: relative to a folder, or a shipped one by its name."""
    path = folder / Path(name).expanduser()
    if path.is_file():
        return path
    shipped = {name: place / f"{name}.yaml" for place in (_STUDIES, _RECIPES) for name in _names(place)}
    if name not in shipped:
        said = f"{where}: base: '{name}'" if where else f"'{name}'"
        told = f"{nearest(name, shipped)} (see: crossdistill studies, crossdistill recipes)"
        raise UserError(f"{said} is neither a file nor a shipped study{told}")
    return shipped[name]


def _read_layers(path: Path, where: str, layers: list[tuple[dict[str, Any], str]], above: tuple[Path, ...]) -> None:
    """Append the fields of a file, behind those of what it is based on."""
    if path.resolve() in above:
        circle = " -> ".join(file.name for file in (*above[above.index(path.resolve()) :], path))
        raise UserError(f"{where}: base: the studies are based on each other in a circle: {circle}")
    values = read_yaml(path)
    bases = values.pop(_BASE, None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{where}: base: give a file or a list of files, got '{bases}'")
    for base in bases:
        _read_layers(_find(base, path.parent, where), base, layers, (*above, path.resolve()))
    layers.append((values, where))


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
