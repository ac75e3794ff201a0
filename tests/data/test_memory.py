import pytest
import torch

from crossdistill.data import FileSource, TensorSource, memory
from crossdistill.data.images import fit


def test_large_files_are_kept_only_when_asked(file_source: FileSource):
    assert not memory.keeps(file_source, (16, 16), "auto")
    assert memory.keeps(file_source, (16, 16), "true")


def test_what_is_in_memory_stays_there_unless_it_grows_too_much(
    tensor_source: TensorSource, monkeypatch: pytest.MonkeyPatch
):
    assert memory.keeps(tensor_source, (16, 16), "auto")
    assert not memory.keeps(tensor_source, (16, 16), "false")
    monkeypatch.setattr(memory, "MOST_BYTES", 24 * 3 * 16 * 16)
    assert memory.keeps(tensor_source, (16, 16), "auto")
    assert not memory.keeps(tensor_source, (16, 17), "auto")


def test_natural_size(tensor_source: TensorSource, file_source: FileSource):
    assert memory.natural_size(tensor_source, (224, 224)) == (16, 16)
    assert memory.natural_size(tensor_source, (8, 8)) == (16, 16)
    assert memory.natural_size(tensor_source, (8, 7)) == (8, 7)
    # Files of different sizes cannot be stacked as they are.
    assert memory.natural_size(file_source, (128, 128)) == (128, 128)


@pytest.mark.parametrize("workers", [0, 2])
def test_kept_images_are_the_fitted_ones(file_source: FileSource, workers: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "_SHARE", 5)
    kept = memory.keep(file_source, (10, 14), workers, 0.9)
    assert kept.shape == (12, 3, 10, 14) and kept.dtype == torch.uint8
    for image, index in zip(kept, range(12), strict=True):
        assert image.permute(1, 2, 0).numpy().tobytes() == fit(file_source.read(index), (10, 14), 0.9).tobytes()


def test_kept_pixels_are_not_copied(tensor_source: TensorSource):
    assert memory.keep(tensor_source, (16, 16), 0) is tensor_source.pixels
