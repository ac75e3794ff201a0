"""How the command prints its tables."""

import io

from rich.console import Console, RenderableType

# Columns. More than any table has: what goes into a file or a pipe is searched and compared, not looked at.
_WIDE = 10_000


def show(*tables: RenderableType) -> None:
    """Print tables: folded to the width of a terminal; elsewhere each row is one line, and nothing is cut."""
    console = Console()
    if console.is_terminal:
        console.print(*tables, sep="\n")
        return
    text = io.StringIO()
    Console(file=text, width=_WIDE).print(*tables, sep="\n")
    print("\n".join(line.rstrip() for line in text.getvalue().splitlines()))
