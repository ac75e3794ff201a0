import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossdistill.data import read_image, to_input
from crossdistill.data.images import fault_of, fit, upright
from crossdistill.errors import UserError


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_is_read_as_rgb(tmp_path: Path, mode: str):
    path = tmp_path / ("image.tif" if mode in ("CMYK", "I;16") else "image.png")
    Image.new(mode, (7, 5)).save(path)
    image = read_image(path)
    assert image.mode == "RGB" and image.size == (7, 5) and fault_of(path) == ""


DEEP = np.array([[0, 255, 256, 4660], [32767, 32768, 65279, 65535]], dtype=np.uint16)


def write_deep_png(path: Path, pixels: np.ndarray) -> None:
    """A PNG of 16 bits a channel, (H, W) grey or (H, W, 3) colour, which Pillow cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["grey.png", "colour.png", "little.tif", "big.tif", "integers.tif", "grey.pgm"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, kind: str):
    path = tmp_path / kind
    if kind == "grey.png":
        write_deep_png(path, DEEP)
    elif kind == "colour.png":
        write_deep_png(path, np.stack([DEEP] * 3, axis=-1))
    elif kind == "grey.pgm":
        path.write_bytes(b"P5 4 2 65535\n" + DEEP.astype(">u2").tobytes())
    else:
        Image.fromarray(DEEP.astype({"little": "<u2", "big": ">u2", "integers": np.int32}[path.stem])).save(path)
    pixels = np.asarray(read_image(path))
    assert (pixels == (DEEP >> 8)[..., None]).all() and pixels.shape == (2, 4, 3) and fault_of(path) == ""


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_both_byte_orders_are_scaled(mode: str):
    stored = DEEP.astype(">u2" if mode.endswith("B") else "<u2").tobytes()
    assert (np.asarray(upright(Image.frombytes(mode, (4, 2), stored))) == (DEEP >> 8)[..., None]).all()


def test_a_turned_image_of_sixteen_bits_is_read_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(DEEP).save(tmp_path / "turned.png", exif=exif)
    assert (np.asarray(read_image(tmp_path / "turned.png"))[..., 0] == (DEEP >> 8)[::-1, ::-1]).all()


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.array([[0.0, 0.5]], dtype=np.float32), "floating-point numbers"),
        (np.array([[-5, 700]], dtype=np.int32), "go from -5 to 700"),
        (np.array([[0, 70000]], dtype=np.int32), "go from 0 to 70000"),
        # 255 may be white here, or nearly black.
        (np.array([[0, 255]], dtype=np.int32), "go from 0 to 255"),
    ],
)
def test_pixels_whose_white_is_not_known_are_refused(tmp_path: Path, pixels: np.ndarray, message: str):
    path = tmp_path / "measured.tif"
    Image.fromarray(pixels).save(path)
    assert message in fault_of(path)
    with pytest.raises(UserError, match=f"measured.tif cannot be decoded .*{message}.*save it with") as refusal:
        read_image(path)
    assert "\n" not in str(refusal.value)


def test_transparency_is_dropped_as_ever(tmp_path: Path):
    Image.new("RGBA", (1, 1), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    Image.new("LA", (1, 1), (40, 0)).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "clear.png").getpixel((0, 0)) == (10, 20, 30)
    assert read_image(tmp_path / "grey.png").getpixel((0, 0)) == (40, 40, 40)


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "moving.gif").getpixel((0, 0)) == (255, 0, 0)


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
    with pytest.raises(UserError, match=r"cannot be decoded .Is a directory.: give an image file"):
        read_image(tmp_path)
    with pytest.raises(UserError, match=r"cannot be decoded .File name too long.: give"):
        read_image(tmp_path / ("x" * 300))


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
