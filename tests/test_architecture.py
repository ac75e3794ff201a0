"""The rooms of the package: an import goes from an upper room to a lower one, never back and never sideways."""

import ast
from pathlib import Path

import crossdistill

PACKAGE = Path(crossdistill.__file__).parent
# From the ground up; the rooms of one floor know nothing of each other.
FLOORS = (
    {"errors", "files", "process"},
    {"imports", "names", "ranges"},
    {"options"},
    {"staged"},
    {"models", "data"},
    {"distiller", "modules"},
    {"methods"},
    {"functional", "evaluation", "cache"},
    {"training"},
    {"analysis"},
    {"study", "export"},
    {"report"},
    # At the top, so that nothing imports them: `testing` wants pytest, which an installed package need not have.
    {"cli", "testing"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# The front doors: they are above all rooms.
DOORS = {"__init__", "__main__"}


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(file: Path) -> dict[str, int]:
    """The rooms that a file imports from, with the line; in functions and under TYPE_CHECKING too."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: an import says in full where it goes"
            paths = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for path in paths:
            package, *inside = path.split(".")
            if package == "crossdistill" and inside and inside[0] != "__version__":
                # `from crossdistill import Distiller` leads through the front door to a room.
                room = crossdistill._LAZY.get(inside[0], path).split(".")[1]
                found.setdefault(room, node.lineno)
    return found


FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if room_of(file) not in DOORS]


def test_every_room_has_its_floor() -> None:
    rooms = {room_of(file) for file in FILES}
    assert rooms == FLOOR_OF.keys(), "give a new room its floor in FLOORS, as low as what it imports allows"


def test_imports_go_down() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE)}:{line} imports {other}"
        for file in FILES
        for other, line in imported_rooms(file).items()
        if other != room_of(file) and FLOOR_OF[other] >= FLOOR_OF[room_of(file)]
    ]
    assert not wrong, (
        "these imports do not go from an upper room to a lower one: move what is needed down to a room that both may "
        "import, or hand it over as an argument; where a room is too low altogether, move it up in FLOORS\n"
        + "\n".join(wrong)
    )
