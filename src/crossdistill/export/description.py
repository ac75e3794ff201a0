"""What an exported file says of itself, whatever its format: no guessing what its input is and its outputs are."""

import json
from dataclasses import asdict, dataclass, fields

# The key in the metadata of every format.
KEY = "crossdistill"
INPUT, OUTPUT = "images", "logits"


@dataclass(frozen=True)
class Description:
    """What a program needs to know to use the file.

    Attributes:
        model: name of the student.
        image_size: (height, width) in pixels.
        classes: names of the outputs, in their order.
        precision: `float32` or `int8`.
        note: what must be known of the weights, such as that their run was stopped; or empty.
        input: what goes in, in words.
        output: what comes out, in words.
        crossdistill: version that wrote the file.
    """

    model: str
    image_size: tuple[int, int]
    classes: list[str]
    precision: str = "float32"
    note: str = ""
    input: str = ""
    output: str = ""
    crossdistill: str = ""

    def to_json(self) -> str:
        """In plain ASCII: XML and other formats take no control characters, and a class may be called anything."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Description":
        """Raises a `ValueError`, `TypeError` or `KeyError` on what `to_json` did not write."""
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in json.loads(text).items() if name in known}
        return cls(**values | {"image_size": tuple(values["image_size"])})


def input_in_words(image_size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    """What goes into a file whose graph normalises."""
    height, width = image_size
    return (
        f"{INPUT}: float32 (batch, 3, {height}, {width}), RGB in [0, 1], any batch size. Normalisation with mean "
        f"{list(mean)} and std {list(std)} is inside. Cutting to the aspect ratio around the centre and resizing "
        "(bilinear with antialiasing, on 8-bit pixels) are not: do them first."
    )


def output_in_words(classes: int) -> str:
    """What comes out of every file."""
    return f"{OUTPUT}: float32 (batch, {classes}), before the softmax, in the order of the classes"
