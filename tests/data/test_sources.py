import pytest
import torch

from crossdistill.data import FileSource, TensorSource


def test_images_keep_their_names_in_every_choice(tensor_source: TensorSource):
    source = TensorSource(tensor_source.pixels, tensor_source.labels, "validation")
    assert source.names == [f"validation/{i}" for i in range(24)]
    chosen = source.subset(torch.tensor([20, 3, 17])).subset(torch.tensor([2, 0]))
    assert chosen.names == ["validation/17", "validation/20"]
    assert torch.equal(chosen.pixels, tensor_source.pixels[[17, 20]])


def test_images_of_no_split_are_numbered(tensor_source: TensorSource):
    assert tensor_source.subset(torch.tensor([5, 2])).names == ["5", "2"]


def test_files_of_no_data_set_are_named_by_their_paths(file_source: FileSource):
    assert file_source.names == file_source.paths
    assert file_source.subset(torch.tensor([3])).names == [file_source.paths[3]]


@pytest.mark.parametrize("kind", ["tensor_source", "file_source"])
def test_names_are_unique(kind: str, request: pytest.FixtureRequest):
    names = request.getfixturevalue(kind).names
    assert len(set(names)) == len(names)
