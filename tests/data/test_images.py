from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossdistill.data import read_image, to_input
from crossdistill.data.images import fault_of, fit
from crossdistill.errors import UserError


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_is_read_as_rgb(tmp_path: Path, mode: str):
    path = tmp_path / ("image.tif" if mode in ("CMYK", "I;16") else "image.png")
    Image.new(mode, (7, 5)).save(path)
    image = read_image(path)
    assert image.mode == "RGB" and image.size == (7, 5) and fault_of(path) == ""


def test_a_turned_photo_is_read_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show rotated by 90 degrees
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (20, 40)


def test_a_missing_and_a_broken_file_are_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"no file .*absent\.jpg"):
        read_image(tmp_path / "absent.jpg")
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(UserError, match=r"text\.jpg cannot be decoded"):
        read_image(tmp_path / "text.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_a_truncated_file_has_a_fault(tmp_path: Path, suffix: str):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    assert fault_of(path) == ""
    path.write_bytes(path.read_bytes()[:-2000])
    assert fault_of(path)


def test_fit_keeps_the_aspect_ratio_and_cuts_the_centre():
    # Left third red, middle green, right blue: the largest square of the middle is green.
    columns = np.repeat(np.eye(3, dtype=np.uint8) * 255, 20, axis=0)
    image = Image.fromarray(np.repeat(columns[None], 20, axis=0))
    fitted = np.asarray(fit(image, (8, 8)))
    # Antialiasing reaches beyond the cut, so the outermost columns are mixed.
    assert fitted.shape == (8, 8, 3) and (fitted[:, 1:-1] == [0, 255, 0]).all()
    assert np.asarray(fit(image, (10, 30))).shape == (10, 30, 3)


def test_fit_of_the_same_size_changes_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    assert (np.asarray(fit(Image.fromarray(pixels), (9, 12))) == pixels).all()


def test_crop_fraction_drops_the_border():
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[4:12, 4:12] = 200
    assert (np.asarray(fit(Image.fromarray(pixels), (8, 8), 0.5)) == 200).all()


def test_to_input_is_a_batch_in_the_unit_range():
    images = [Image.new("RGB", (30, 20), (255, 0, 51)), Image.new("RGB", (10, 50))]
    batch = to_input(images, (8, 12))
    assert batch.shape == (2, 3, 8, 12) and batch.dtype == torch.float32
    torch.testing.assert_close(batch[0, :, 0, 0], torch.tensor([1.0, 0.0, 0.2]))
    assert (batch[1] == 0).all()
