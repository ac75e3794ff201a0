"""Data sets by the dotted path of a function; the functions stand in this module."""

import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from crossdistill.data import EvalLoader, TrainLoader, open_data, open_validation
from crossdistill.errors import UserError
from crossdistill.options import TrainingOptions

CLASSES = ["cat", "dog"]
PIXELS = torch.randint(0, 256, (10, 3, 16, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(10) % 2


class Pets(Dataset):
    """Ten images; counts how often an item is read."""

    def __init__(self, image: Callable[[torch.Tensor], Any] = lambda pixels: pixels, label: Callable = int, **own: Any):
        self.image, self.label, self.read = image, label, 0
        vars(self).update(own)

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        self.read += 1
        return self.image(PIXELS[index]), self.label(LABELS[index])


class Listed(list):
    """Items in a list, with their labels beside."""

    targets = LABELS


class Stream(IterableDataset):
    def __iter__(self) -> Iterator:
        return iter(())

    def __len__(self) -> int:
        return 10


def pets() -> tuple:
    return Pets(), Pets(), CLASSES


def give(monkeypatch: pytest.MonkeyPatch, given: Any) -> str:
    """The path of a function that gives this."""
    monkeypatch.setitem(globals(), "given", lambda: given)
    return f"{__name__}.given"


def pil(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def cut_short(pixels: torch.Tensor) -> Image.Image:
    """An image that was opened, but that is found to be incomplete only when it is decoded."""
    file = io.BytesIO()
    pil(pixels).save(file, "JPEG")
    return Image.open(io.BytesIO(file.getvalue()[:-100]))


@pytest.mark.parametrize(
    "given",
    [
        lambda: (Pets(), Pets(), CLASSES),
        lambda: (Pets(), Pets(), tuple(CLASSES)),
        lambda: (Pets(classes=CLASSES), Pets()),
        lambda: (Pets(), Pets(classes=tuple(CLASSES))),
        lambda: (TensorDataset(PIXELS, LABELS), Pets(), CLASSES),
        lambda: (list(zip(PIXELS, LABELS, strict=True)), Pets(), CLASSES),
    ],
)
def test_a_function_gives_both_sets(monkeypatch: pytest.MonkeyPatch, given: Callable):
    path = give(monkeypatch, given())
    data = open_data(path)
    assert data.name == path and data.classes == CLASSES and data.skipped == 0
    for source, split in ((data.train, "train"), (data.validation, "validation")):
        assert torch.equal(source.labels, LABELS) and source.pixels is None
        assert source.names == [f"{split}/{i}" for i in range(10)]
        chosen = source.subset(torch.tensor([7, 2])).subset(torch.tensor([1]))
        assert chosen.names == [f"{split}/2"] and chosen.labels.tolist() == [0]
        assert np.array_equal(np.asarray(chosen.read(0)), PIXELS[2].permute(1, 2, 0))


@pytest.mark.parametrize(
    "given",
    [
        lambda: (Pets(), CLASSES),
        lambda: Pets(classes=CLASSES),
        lambda: (Pets(), Pets(), CLASSES),
        # Training images are not looked at.
        lambda: (Pets(label=lambda _: 99), Pets(classes=CLASSES)),
    ],
)
def test_a_test_set_alone(monkeypatch: pytest.MonkeyPatch, given: Callable):
    data = open_validation(give(monkeypatch, given()))
    assert data.classes == CLASSES and torch.equal(data.images.labels, LABELS)
    assert data.images.names[3] == "validation/3"


def test_the_path_of_a_class_is_a_function_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Pets, "classes", CLASSES, raising=False)
    assert len(open_validation(f"{__name__}.Pets").images) == 10


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (pil, PIXELS),
        (lambda pixels: pil(pixels).convert("P"), None),
        (lambda pixels: Image.fromarray(pixels[0].numpy().astype(np.uint16) << 8), PIXELS[:, :1].expand(-1, 3, -1, -1)),
        (lambda pixels: pixels, PIXELS),
        (lambda pixels: pixels[:1], PIXELS[:, :1].expand(-1, 3, -1, -1)),
        (lambda pixels: pixels / 255, PIXELS),
        (lambda pixels: pixels[1:2] / 255, PIXELS[:, 1:2].expand(-1, 3, -1, -1)),
        (lambda pixels: (pixels / 255).double() * 1.0001, PIXELS),
        (lambda pixels: pixels.permute(1, 2, 0).numpy(), PIXELS),
    ],
)
def test_every_kind_of_image(monkeypatch: pytest.MonkeyPatch, image: Callable, expected: torch.Tensor | None):
    source = open_validation(give(monkeypatch, (Pets(image), CLASSES))).images
    for index in (0, 9):
        read = source.read(index)
        assert read.mode == "RGB" and read.size == (12, 16)
        assert expected is None or np.array_equal(np.asarray(read), expected[index].permute(1, 2, 0))


@pytest.mark.parametrize("label", [int, np.int64, lambda label: label, lambda label: label.to(torch.uint8)])
def test_every_kind_of_label(monkeypatch: pytest.MonkeyPatch, label: Callable):
    assert torch.equal(open_validation(give(monkeypatch, (Pets(label=label), CLASSES))).images.labels, LABELS)


@pytest.mark.parametrize(
    "own",
    [
        {"targets": LABELS},
        {"targets": LABELS.tolist()},
        {"labels": LABELS.numpy().astype(np.uint8)},
        {"labels": list(LABELS)},
        {"targets": None, "labels": LABELS},
        # Not the labels of the items, whatever they are.
        {"targets": ["cat", "dog"] * 5, "labels": LABELS},
        {"targets": torch.rand(10, 4), "labels": LABELS},
    ],
)
def test_labels_that_are_listed_are_not_read(monkeypatch: pytest.MonkeyPatch, own: dict):
    monkeypatch.setattr("crossdistill.data.functions._SAMPLE", 3)
    pets = Pets(**own)
    assert torch.equal(open_validation(give(monkeypatch, (pets, CLASSES))).images.labels, LABELS)
    assert pets.read == 3


@pytest.mark.parametrize("own", [{}, {"labels": CLASSES}, {"targets": LABELS[:9]}, {"targets": LABELS / 2}])
def test_labels_that_are_not_listed_are_read_once(monkeypatch: pytest.MonkeyPatch, own: dict):
    pets = Pets(**own)
    assert torch.equal(open_validation(give(monkeypatch, (pets, CLASSES))).images.labels, LABELS)
    assert pets.read == 10


@pytest.mark.parametrize("workers", [0, 2])
def test_worker_processes_read_it(workers: int):
    data = open_data(f"{__name__}.pets")
    options = TrainingOptions(workers=workers, cache_images="false", color_jitter=0.1)
    loader = TrainLoader(data.train, image_size=(16, 16), batch_size=5, data_seed=0, device="cpu", options=options)
    batches = list(loader.epoch(0))
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(10))
    plain = EvalLoader(
        data.validation, image_size=(16, 12), batch_size=4, device="cpu", workers=workers, cache_images="false"
    )
    assert torch.equal(torch.cat([batch.images for batch in plain]), PIXELS / 255)


def test_a_copy_for_another_process_is_the_same(monkeypatch: pytest.MonkeyPatch):
    source = open_validation(give(monkeypatch, (TensorDataset(PIXELS, LABELS), CLASSES))).images
    copy = pickle.loads(pickle.dumps(source.subset(torch.tensor([4]))))
    assert copy.names == ["validation/4"] and copy.read(0).tobytes() == source.read(4).tobytes()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, r"gives .NoneType.: return .train, validation, classes., map-style"),
        ((Pets(), CLASSES), r"gives .Pets, list.: return .train, validation, classes., map-style"),
        (Pets(classes=CLASSES), r"gives .Pets.: return"),
        ((Pets(), Pets(), Pets(), CLASSES), "gives .Pets, Pets, Pets, list.: return"),
        ((Pets(), Stream(), CLASSES), "gives .Pets, Stream, list.: return"),
        ((Pets(), {"a": 1}, CLASSES), "gives .Pets, dict, list.: return"),
        ((Pets(), Pets()), "gives no class names: return them as the last entry"),
        ((Pets(classes=[1, 2]), Pets()), "gives no class names"),
        ((Pets(classes=CLASSES), Pets(classes=CLASSES[::-1])), "with different `.classes`"),
        ((Pets(), Pets(), ["cat"]), "has one class only, 'cat'"),
        (([], Pets(), CLASSES), "train items: there are none"),
        ((Pets(label=lambda _: 2), Pets(), CLASSES), "train item 0 has label 2: labels of 2 classes are 0 to 1"),
        ((Pets(), Pets(label=lambda label: -label), CLASSES), "validation item 1 has label -1: labels of 2"),
        ((Pets(targets=1 - LABELS), Pets(), CLASSES), "train item 0 has label 0, but 1 in the list of the data set"),
        ((Pets(label=float), Pets(), CLASSES), "train item 0 has the label float: give the position of its class"),
        ((Pets(label=lambda _: torch.eye(2)[0]), Pets(), CLASSES), r"0 has the label Tensor .2,. of float32: give"),
        ((Pets(label=lambda _: torch.tensor([0, 1])), Pets(), CLASSES), r"0 has the label Tensor .2,. of int64: give"),
        ((Pets(label=str), Pets(), CLASSES), "train item 0 has the label str: give"),
        ((list(PIXELS), Pets(), CLASSES), r"train item 0 is Tensor .3, 16, 12. of uint8: give .image, label."),
        (([(1, 2, 3)], Pets(), CLASSES), r"train item 0 is tuple of 3: give .image, label."),
        ((Pets(lambda pixels: "a.jpg"), Pets(), CLASSES), "train item 0 is no image, but str: give a PIL image"),
        ((Pets(lambda pixels: pixels.long()), Pets(), CLASSES), r"no image, but Tensor .3, 16, 12. of int64: give"),
        ((Pets(lambda pixels: pixels[:2]), Pets(), CLASSES), r"no image, but Tensor .2, 16, 12. of uint8: give"),
        ((Pets(lambda pixels: pixels[:, :0]), Pets(), CLASSES), r"no image, but Tensor .3, 0, 12. of uint8: give"),
        ((Pets(lambda pixels: pixels.numpy()), Pets(), CLASSES), r"no image, but ndarray .3, 16, 12. of uint8: give"),
        ((Pets(lambda pixels: pixels / 127.5 - 1), Pets(), CLASSES), "floats from -1 to 1: give them in .0, 1., not"),
        ((Pets(lambda pixels: pixels * torch.nan), Pets(), CLASSES), "floats from nan to nan: give"),
        ((Pets(cut_short), Pets(), CLASSES), "train item 0 cannot be read: .*truncated"),
        ((Pets(lambda pixels: Image.new("F", (3, 3))), Pets(), CLASSES), "item 0 cannot be read: its pixels are float"),
    ],
)
def test_what_a_function_must_not_give(monkeypatch: pytest.MonkeyPatch, given: Any, message: str):
    path = give(monkeypatch, given)
    with pytest.raises(UserError, match=f"^--data {path}:? .*{message}") as refusal:
        open_data(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_lab.pets", "is neither a folder nor a function: cannot import 'no_such_lab.pets': No module named"),
        (f"{__name__}.cats", "is neither a folder nor a function: cannot import .* no attribute 'cats'"),
        (f"{__name__}.CLASSES", "is no function, but list"),
        (f"{__name__}.give", "wants arguments"),
        ("my-photos.v2", "is neither a folder nor one of"),
    ],
)
def test_what_is_no_function_is_refused(path: str, message: str):
    for door in (open_data, open_validation):
        with pytest.raises(UserError, match=f"--data {path} {message}"):
            door(path)


def test_what_the_function_raises_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(globals(), "given", lambda: [][0])
    with pytest.raises(IndexError):
        open_data(f"{__name__}.given")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_item_that_was_not_looked_at_is_told_when_it_is_read(monkeypatch: pytest.MonkeyPatch, workers: int):
    monkeypatch.setattr("crossdistill.data.functions._SAMPLE", 2)
    items = Listed(zip(PIXELS, LABELS, strict=True))
    items[5] = ("5.jpg", 1)
    path = give(monkeypatch, (items, CLASSES))
    source = open_validation(path).images
    with pytest.raises(UserError, match=f"^--data {path}: validation item 5 is no image, but str.*uint8$"):
        list(EvalLoader(source, image_size=(8, 8), batch_size=4, device="cpu", workers=workers, cache_images="false"))


def test_a_folder_comes_before_a_function(make_folder, monkeypatch: pytest.MonkeyPatch):
    root = make_folder(name=f"{__name__}.pets")
    monkeypatch.chdir(root.parent)
    assert open_data(root.name).train.names[0] == "train/cat/0.jpg"
