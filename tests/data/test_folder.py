import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from crossdistill.data import NO_LABEL, EvalLoader, open_data, open_validation, soundness
from crossdistill.errors import UserError

MakeFolder = Callable[..., Path]


@pytest.mark.parametrize("validation", ["val", "test"])
def test_a_folder_is_read(make_folder: MakeFolder, validation: str):
    root = make_folder(("train", validation))
    (root / "train" / "cat" / "notes.txt").write_text("not an image, and not meant as one")
    (root / "train" / ".thumbnails").mkdir()
    data = open_data(str(root))
    assert data.classes == ["cat", "dog"] and data.skipped == 0
    assert torch.equal(data.train.labels, torch.tensor([0, 0, 0, 1, 1, 1])) and len(data.validation) == 6
    assert data.train.read(5).size == (20, 24)
    assert data.validation.names == [f"{validation}/{name}/{i}.jpg" for name in ("cat", "dog") for i in range(3)]
    assert data.train.subset(torch.tensor([4, 0])).names == ["train/dog/1.jpg", "train/cat/0.jpg"]


def test_val_comes_before_test(make_folder: MakeFolder):
    assert open_data(str(make_folder(("train", "val", "test")))).validation.names[0] == "val/cat/0.jpg"


def test_names_do_not_depend_on_how_the_folder_was_named(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch):
    root = make_folder()
    (root / "train" / "cat" / "kittens").mkdir()
    (root / "train" / "cat" / "0.jpg").rename(root / "train" / "cat" / "kittens" / "0.jpg")
    monkeypatch.chdir(root.parent)
    found = {tuple(open_data(given).train.names) for given in (str(root), "photos", "./photos/", "photos/train/..")}
    assert len(found) == 1 and found.pop()[2] == "train/cat/kittens/0.jpg"


@pytest.mark.parametrize(("splits", "missing"), [(("train",), "val/ .or test/."), (("val",), "train/")])
def test_a_missing_split_is_named(make_folder: MakeFolder, splits: tuple[str, ...], missing: str):
    with pytest.raises(UserError, match=f"has no {missing}"):
        open_data(str(make_folder(splits)))


def test_images_without_class_folders_are_refused(make_folder: MakeFolder):
    root = make_folder()
    shutil.rmtree(root / "val")
    shutil.copytree(root / "train" / "cat", root / "val")
    with pytest.raises(UserError, match="val has no class folders"):
        open_data(str(root))


def test_any_folder_is_images_without_labels_where_they_are_allowed(make_folder: MakeFolder, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no train/, nor any image"):
        open_data(str(tmp_path / "empty"), without_labels=True)
    root = make_folder(("train",))
    (root / "train").rename(root / "photos")
    (root / "photos" / "cat" / "0.jpg").rename(root / "first.jpg")
    data = open_data(str(root), without_labels=True)
    assert not data.labelled and data.classes == [] and len(data.validation) == 0
    assert data.train.names == [
        "first.jpg",
        *(f"photos/{name}" for name in ("cat/1.jpg", "cat/2.jpg", "dog/0.jpg", "dog/1.jpg", "dog/2.jpg")),
    ]
    assert not data.train.labelled and data.train.labels.tolist() == [NO_LABEL] * 6
    loader = EvalLoader(data.train, image_size=(8, 8), batch_size=4, device="cpu", workers=0)
    assert [batch.labels for batch in loader] == [None, None]
    with pytest.raises(UserError, match="has no train/"):
        open_data(str(root))


def test_a_folder_with_splits_has_labels_whatever_is_allowed(make_folder: MakeFolder):
    root = make_folder()
    assert open_data(str(root), without_labels=True).labelled
    shutil.rmtree(root / "val")
    with pytest.raises(UserError, match="has no val/"):
        open_data(str(root), without_labels=True)


def test_different_classes_are_named(make_folder: MakeFolder):
    root = make_folder()
    (root / "val" / "dog").rename(root / "val" / "wolf")
    with pytest.raises(UserError, match=r"'dog' and 1 more, in .*train, not in .*val"):
        open_data(str(root))
    shutil.rmtree(root / "train" / "dog")
    with pytest.raises(UserError, match=r"'wolf', in .*val, not in .*train"):
        open_data(str(root))


def test_a_single_class_is_refused(make_folder: MakeFolder):
    with pytest.raises(UserError, match=r"one class only, 'cat'"):
        open_data(str(make_folder(classes=("cat",))))


def test_a_class_without_images_is_named(make_folder: MakeFolder):
    root = make_folder()
    for path in (root / "train" / "cat").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"train/cat has no image"):
        open_data(str(root))


def test_a_bad_image_stops_and_is_named(make_folder: MakeFolder):
    root = make_folder()
    path = root / "train" / "dog" / "1.jpg"
    path.write_bytes(path.read_bytes()[:300])
    (root / "val" / "cat" / "0.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"train/dog/1\.jpg cannot be decoded .*--on_bad_image skip"):
        open_data(str(root))


def test_bad_images_are_skipped_and_counted(make_folder: MakeFolder):
    root = make_folder()
    (root / "train" / "dog" / "1.jpg").write_text("no image")
    (root / "val" / "cat" / "0.jpg").write_bytes(b"")
    data = open_data(str(root), on_bad_image="skip")
    assert data.skipped == 2 and len(data.train) == 5 and len(data.validation) == 5
    assert torch.equal(data.train.labels, torch.tensor([0, 0, 0, 1, 1]))


def test_a_class_with_only_bad_images_is_named(make_folder: MakeFolder):
    root = make_folder(images=1)
    (root / "val" / "dog" / "0.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"val/dog has no image"):
        open_data(str(root), on_bad_image="skip")


@pytest.mark.parametrize("split", ["val", "test", "."])
def test_a_test_set_needs_no_training_images(make_folder: MakeFolder, split: str):
    root = make_folder((split,))
    data = open_validation(str(root))
    assert data.classes == ["cat", "dog"] and torch.equal(data.images.labels, torch.tensor([0, 0, 0, 1, 1, 1]))
    assert data.images.names[4] == (Path(split) / "dog" / "1.jpg").as_posix()
    with pytest.raises(UserError, match="has no train/"):
        open_data(str(root))


def test_a_test_set_is_not_judged_by_its_training_images(make_folder: MakeFolder):
    root = make_folder()
    (root / "train" / "dog" / "1.jpg").write_text("no image")
    (root / "train" / "wolf").mkdir()
    assert len(open_validation(str(root)).images) == 6
    (root / "val" / "dog" / "1.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"val/dog/1\.jpg cannot be decoded"):
        open_validation(str(root))
    data = open_validation(str(root), on_bad_image="skip")
    assert data.skipped == 1 and len(data.images) == 5


def test_what_is_no_test_set_is_refused(make_folder: MakeFolder, tmp_path: Path):
    with pytest.raises(UserError, match="photos has no val/ .or test/.: --data wants a folder with val/, one folder"):
        open_validation(str(make_folder(("train",))))
    with pytest.raises(UserError, match="empty has no class folders"):
        (tmp_path / "empty").mkdir()
        open_validation(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="one class only, 'cat'"):
        open_validation(str(make_folder((".",), classes=("cat",), name="cats")))


@pytest.mark.parametrize("name", ["x" * 300, "loop"])
def test_a_path_that_the_system_rejects_is_refused_in_one_line(tmp_path: Path, name: str):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match=r"cannot read .*(too long|symbolic links).*: check the path") as refusal:
        open_data(str(tmp_path / name))
    assert "\n" not in str(refusal.value) and "[Errno" not in str(refusal.value)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path):
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="neither a folder nor"):
        open_data(str(tmp_path / "photos.zip"))
    with pytest.raises(UserError, match="neither a folder nor"):
        open_data("~no such user/photos")


@pytest.mark.parametrize("denied", ["train", "train/dog", "train/dog/puppies"])
def test_a_folder_that_may_not_be_read_is_named(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, denied: str):
    root = make_folder()
    (root / "train/dog/puppies").mkdir()

    def deny(function: Callable) -> Callable:
        def reading(path: str | Path) -> object:
            if Path(path) == root / denied:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return function(path)

        return reading

    # Both ways to list a folder; file permissions would not stop tests that run as root.
    monkeypatch.setattr(os, "scandir", deny(os.scandir))
    monkeypatch.setattr(os, "listdir", deny(os.listdir))
    with pytest.raises(UserError, match=f"cannot read {root / denied} .Permission denied.: check"):
        open_data(str(root))


def test_dangling_links_count_as_bad_images(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(soundness, "_FEW", 4)
    root = make_folder()
    (root / "train" / "cat" / "3.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(UserError, match=r"3\.jpg cannot be decoded .No such file or directory."):
        open_data(str(root))
    assert open_data(str(root), on_bad_image="skip").skipped == 1
