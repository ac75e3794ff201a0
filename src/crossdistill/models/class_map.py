"""Which outputs of a model answer for the classes of the data."""

from pathlib import Path

from crossdistill.errors import UserError, nearest


def read_class_map(path: str | Path, class_names: list[str], outputs: int) -> list[int]:
    """Which output of a model answers for each class of the data.

    Args:
        path: a text file, one line for each class of the data: its name, a space, and the index of the output from 0.
        class_names: the classes of the data, in the order of the labels.
        outputs: number of outputs of the model.

    Returns:
        One index per class, in the order of `class_names`.

    Raises:
        UserError: no such file, a line that is not a name and an index, an unknown or repeated class, a class left out,
            an index that the model does not have.
    """
    try:
        lines = Path(path).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the class map '{path}': {error}") from error
    indices: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        # From the right, because a name may hold spaces.
        *names, index = line.rsplit(maxsplit=1)
        where = f"{path}, line {number}"
        if not names or not index.isdecimal():
            raise UserError(f"{where}: '{line.strip()}' is not a class name and the index of an output")
        name = names[0].strip()
        if name not in class_names:
            raise UserError(f"{where}: the data has no class '{name}'{nearest(name, class_names)}")
        if name in indices:
            raise UserError(f"{where}: class '{name}' is given twice")
        if int(index) >= outputs:
            raise UserError(f"{where}: output {index} does not exist, the model has {outputs}, counted from 0")
        indices[name] = int(index)
    missing = [name for name in class_names if name not in indices]
    if missing:
        raise UserError(f"{path}: {len(missing)} classes of the data are left out, the first is '{missing[0]}'")
    return [indices[name] for name in class_names]
