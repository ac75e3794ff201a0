"""What reading a data set gives, whatever kind it is."""

from dataclasses import dataclass, field

from crossdistill.data.sources import ImageSource


@dataclass
class Splits:
    """The splits of a data set that were wanted.

    Attributes:
        classes: K class names; labels are positions in this list.
        sources: the images of `train`, `validation`, or both.
        skipped: files left out because they could not be decoded.
    """

    classes: list[str] = field(default_factory=list)
    sources: dict[str, ImageSource] = field(default_factory=dict)
    skipped: int = 0
