"""A page as data, and its HTML. Every text is escaped by the template; only charts, which escape theirs, are markup."""

from dataclasses import dataclass, field
from typing import ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from crossdistill.report.chart import key

# While a study runs, its page is read anew so often.
REFRESH_SECONDS = 30


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        text: plain.
        strong: whether it is an answer, not a remark.
    """

    kind: ClassVar = "text"
    text: str
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first column names the rows.

    Attributes:
        header: names of the columns; empty for a list of facts.
        rows: as many cells as the header has.
        marked: position of the row that is the answer; None for none.
        caption: what the columns mean.
    """

    kind: ClassVar = "table"
    header: list[str]
    rows: list[list[str]]
    marked: int | None = None
    caption: str = ""


@dataclass(frozen=True)
class Figure:
    """A chart.

    Attributes:
        title: what it shows.
        svg: its markup, all text in it escaped.
        legend: (number of the series, its name).
        caption: how to read it.
        wide: whether it needs the width of the page.
    """

    kind: ClassVar = "figure"
    title: str
    svg: Markup
    legend: list[tuple[int, str]] = field(default_factory=list)
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Thumbnail:
    """A small image.

    Attributes:
        source: a data URI.
        label: the true class.
        answers: what models said of it.
        name: of the image in its data set.
    """

    source: str
    label: str
    answers: list[str]
    name: str


@dataclass(frozen=True)
class Images:
    """A row of small images.

    Attributes:
        title: what they have in common.
        images: the images.
    """

    kind: ClassVar = "images"
    title: str
    images: list[Thumbnail]


@dataclass(frozen=True)
class Code:
    """Text as it stands in a file."""

    kind: ClassVar = "code"
    text: str


@dataclass(frozen=True)
class Folded:
    """What is shown on demand.

    Attributes:
        title: what is in it.
        blocks: the content.
    """

    kind: ClassVar = "folded"
    title: str
    blocks: "list[Block]"


Block = Text | Table | Figure | Images | Code | Folded


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        blocks: its content; figures that follow each other stand side by side.
    """

    title: str
    blocks: list[Block]


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: its heading.
        subtitle: the line below.
        sections: in order.
        live: whether it is written anew while it is looked at.
    """

    title: str
    subtitle: str
    sections: list[Section]
    live: bool = False


def to_html(page: Page) -> str:
    """The page as one HTML document that loads nothing."""
    environment = Environment(
        loader=PackageLoader("crossdistill.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["key"] = key
    return environment.get_template("page.html").render(page=page, refresh=REFRESH_SECONDS)
