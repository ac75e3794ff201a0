"""The index of a cache: what is there, under which conditions."""

from pathlib import Path

import pytest
import torch

from crossdistill.cache.index import CacheFolder
from crossdistill.cache.shards import Entry
from crossdistill.errors import UserError

KEY = {"--crop_scale": 0.35, "stages": ["a", "b"]}


def test_two_fills_of_one_cache_keep_each_others_shards(tmp_path: Path) -> None:
    one, two = CacheFolder(tmp_path), CacheFolder(tmp_path)
    one.add({"logits/1.safetensors": Entry(4, 10, "a")}, KEY, write=True)
    two.add({"logits/2.safetensors": Entry(4, 10, "b")}, KEY, write=True)
    assert CacheFolder(tmp_path).entries.keys() == {"logits/1.safetensors", "logits/2.safetensors"}


def test_the_first_condition_that_differs_is_named(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    folder.check_key(KEY)
    folder.add({}, KEY, write=True)
    again = CacheFolder(tmp_path)
    again.check_key(KEY)
    with pytest.raises(UserError, match="does not fit this run: --crop_scale: 0.35 in the cache, 0.5 in this run"):
        again.check_key({"--crop_scale": 0.5, "stages": []})
    with pytest.raises(UserError, match="stages: a b in the cache, none in this run"):
        again.check_key({"--crop_scale": 0.35})


def test_tables_are_read_back_and_checked(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    table = torch.randn(5, 3)
    assert folder.read_table("validation") is None
    folder.add(folder.write_table("validation", table), KEY, write=True)
    read = CacheFolder(tmp_path).read_table("validation")
    assert read is not None and torch.equal(read, table)
    (tmp_path / "validation.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="validation.safetensors has 3 bytes of"):
        folder.read_table("validation")


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}', '{"format": 1, "key": {}, "shards": {"a": {}}}'])
def test_a_damaged_index_is_told_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(UserError, match="index.json is no index of a teacher cache of this version"):
        CacheFolder(tmp_path)
