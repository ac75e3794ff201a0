import gzip
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets as torchvision_datasets

from crossdistill.data import FileSource, datasets, open_data, open_validation
from crossdistill.errors import UserError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
REPOSITORY = Path(__file__).parents[2]


def write_idx(path: Path, array: np.ndarray, packed: bool) -> None:
    content = struct.pack(f">{1 + array.ndim}i", 0x800 + array.ndim, *array.shape) + array.tobytes()
    path.with_name(path.name + ".gz" * packed).write_bytes(gzip.compress(content) if packed else content)


def write_fashion(folder: Path, packed: bool) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    for prefix in ("train", "t10k"):
        write_idx(folder / f"{prefix}-images-idx3-ubyte", images, packed)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", np.arange(6, dtype=np.uint8), packed)
    return images


def test_fashion_mini_is_in_the_package():
    data = open_data("fashion-mini")
    assert data.classes[0] == "T-shirt/top" and data.classes[9] == "Ankle boot" and len(data.classes) == 10
    assert torch.equal(data.train.labels.bincount(), torch.full((10,), 200))
    assert torch.equal(data.validation.labels.bincount(), torch.full((10,), 1000))
    assert data.train.pixels.shape == (2000, 3, 32, 32)
    assert data.train.names[17] == "train/17" and data.validation.names[9999] == "validation/9999"
    # Mean and deviation of the original 28x28 images, spread over 32x32 with black.
    assert abs(data.train.pixels[:, 0, 2:30, 2:30].float().mean() / 255 - 0.286) < 0.003
    assert (data.train.pixels[:, :, :2] == 0).all() and (data.train.pixels[:, 0] == data.train.pixels[:, 2]).all()
    folder = Path(datasets.__file__).parent / "fashion_mini"
    assert "Zalando" in (folder / "LICENSE").read_text() and (folder / "README.md").is_file()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8 * 10**6


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="the whole of Fashion-MNIST is not on this machine")
def test_fashion_mini_is_what_its_recipe_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(REPOSITORY / "recipes")
    import make_fashion_mini

    make_fashion_mini.make(DEBIAN, tmp_path)
    made, packaged = open_data(f"fashion-mnist:{tmp_path}"), open_data("fashion-mini")
    for ours, theirs in ((made.train, packaged.train), (made.validation, packaged.validation)):
        assert torch.equal(ours.pixels, theirs.pixels) and torch.equal(ours.labels, theirs.labels)
    whole = open_data("fashion-mnist")
    assert len(whole.train) == 60000 and torch.equal(whole.validation.pixels, packaged.validation.pixels)


@pytest.mark.parametrize(("below", "packed"), [("", True), ("", False), ("FashionMNIST/raw", False)])
def test_fashion_mnist_from_a_folder(tmp_path: Path, below: str, packed: bool):
    images = write_fashion(tmp_path / below, packed)
    data = open_data(f"fashion-mnist:{tmp_path}")
    assert torch.equal(data.train.labels, torch.arange(6))
    assert (data.train.pixels[:, 1, 2:30, 2:30].numpy() == images).all()
    assert np.asarray(data.train.read(4))[2:30, 2:30, 0].tolist() == images[4].tolist()


def test_an_incomplete_fashion_mnist_is_refused(tmp_path: Path):
    write_fashion(tmp_path, packed=True)
    (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz is missing"):
        open_data(f"fashion-mnist:{tmp_path}")
    assert len(open_validation(f"fashion-mnist:{tmp_path}").images) == 6


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    kind = {"cifar10": torchvision_datasets.CIFAR10, "cifar100": torchvision_datasets.CIFAR100}[name]
    classes = ["cat", "dog", "wolf"]
    # The real files by name, but small, so without their checksums.
    monkeypatch.setattr(kind, "train_list", [["part_1", None], ["part_2", None]])
    monkeypatch.setattr(kind, "test_list", [["test", None]])
    monkeypatch.setattr(kind, "meta", {"filename": "meta", "key": "names", "md5": None})
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    (folder / "meta").write_bytes(pickle.dumps({"names": classes}))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 3072), dtype=np.uint8)
    for part, content in zip(("part_1", "part_2", "test"), pixels, strict=True):
        (folder / part).write_bytes(pickle.dumps({"data": content, "labels": [0, 1, 2, 1]}))
    data = open_data(f"{name}:{tmp_path}")
    assert data.classes == classes and len(data.train) == 8 and len(data.validation) == 4
    assert torch.equal(data.train.labels, torch.tensor([0, 1, 2, 1] * 2))
    assert data.train.names[-1] == "train/7" and data.validation.names[-1] == "validation/3"
    monkeypatch.setattr(kind, "train_list", [])
    alone = open_validation(f"{name}:{tmp_path}")
    assert alone.classes == classes and torch.equal(alone.images.pixels, data.validation.pixels)
    # CIFAR's own layout: all of red, then green, then blue.
    assert (data.validation.pixels[1].numpy() == pixels[2, 1].reshape(3, 32, 32)).all()


def test_imagenet_through_torchvision(make_folder):
    wnids = ("n01440764", "n02012849")
    root = make_folder(classes=wnids)
    torch.save(({wnids[0]: ("tench",), wnids[1]: ("crane",)}, [wnids[0], wnids[1]] * 3), root / "meta.bin")
    (root / "val" / wnids[1] / "0.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"n02012849/0\.jpg cannot be decoded"):
        open_data(f"imagenet:{root}")
    data = open_data(f"imagenet:{root}", on_bad_image="skip")
    assert data.classes == list(wnids) and data.skipped == 1
    assert data.train.names[0] == "train/n01440764/0.jpg" and data.validation.names[-1] == "val/n02012849/2.jpg"
    (root / "train" / wnids[0] / "0.jpg").write_text("no image")
    alone = open_validation(f"imagenet:{root}", on_bad_image="skip")
    assert alone.classes == list(wnids) and alone.skipped == 1 and alone.images.names == data.validation.names
    assert isinstance(data.train, FileSource) and torch.equal(data.train.labels, torch.tensor([0, 0, 0, 1, 1, 1]))


def test_absent_imagenet_is_refused_in_one_line(tmp_path: Path):
    with pytest.raises(UserError, match="--data imagenet:FOLDER") as refusal:
        open_data(f"imagenet:{tmp_path}")
    assert "\n" not in str(refusal.value)


def test_a_failed_download_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(torchvision_datasets.CIFAR10, "download", fail)
    with pytest.raises(UserError, match=r"--data cifar10 cannot be read \(no route to host\)"):
        open_data("cifar10")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashion-mimi", "did you mean 'fashion-mini'"),
        ("/no/such/folder", "neither a folder nor one of fashion-mini"),
        ("", "--data is missing"),
    ],
)
def test_an_unknown_set_is_refused(name: str, message: str):
    with pytest.raises(UserError, match=message):
        open_data(name)


def test_the_packaged_set_has_no_folder():
    with pytest.raises(UserError, match="fashion-mini lies in the package"):
        open_data("fashion-mini:somewhere")


def test_the_recipe_needs_a_folder(monkeypatch: pytest.MonkeyPatch):
    import runpy

    monkeypatch.setattr(sys, "argv", ["make_fashion_mini.py"])
    with pytest.raises(SystemExit, match="FOLDER"):
        runpy.run_path(str(REPOSITORY / "recipes" / "make_fashion_mini.py"), run_name="__main__")
