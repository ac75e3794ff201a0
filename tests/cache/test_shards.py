"""One column of some images in a file: written row by row, and nothing but what was written is read."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from crossdistill.cache.shards import Entry, Shard, new_shard
from crossdistill.errors import UserError


def write(path: Path, rows: torch.Tensor, parts: int = 2) -> Entry:
    with new_shard(path, len(rows)) as shard:
        for part in rows.split(len(rows) // parts):
            shard.append(part)
        return shard.entry()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int32])
def test_safetensors_reads_what_was_written(dtype: torch.dtype, tmp_path: Path) -> None:
    rows = (100 * torch.randn(6, 5)).to(dtype)
    entry = write(tmp_path / "a.safetensors", rows)
    assert torch.equal(safetensors.torch.load_file(tmp_path / "a.safetensors")["rows"], rows)
    assert entry.images == 6 and entry.bytes == (tmp_path / "a.safetensors").stat().st_size


def test_a_map_keeps_its_memory_order(tmp_path: Path) -> None:
    # As a Transformer's tokens are seen as a map.
    rows = torch.randn(4, 6, 3).transpose(1, 2).unflatten(2, (2, 3))
    shard = Shard(tmp_path / "a.safetensors", write(tmp_path / "a.safetensors", rows))
    read = shard.rows(1, 3)
    assert torch.equal(read, rows[1:3]) and read.stride() == rows.stride()
    picked = shard.pick(torch.tensor([3, 0]))
    assert torch.equal(picked, rows[[3, 0]]) and picked.stride() == rows.stride()


def test_what_is_read_begins_at_an_aligned_address(tmp_path: Path) -> None:
    shard = Shard(tmp_path / "a.safetensors", write(tmp_path / "a.safetensors", torch.randn(4, 3)))
    assert shard.rows(1, 2).data_ptr() % 64 == 0


def test_a_shard_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_shard(tmp_path / "a.safetensors", 4) as shard:
        shard.append(torch.zeros(2, 3))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_and_a_cut_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    entry = write(path, torch.randn(4, 3))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="a.safetensors is damaged.*--teacher_cache_fill true"):
        Shard(path, entry)
    path.write_bytes(content[:-5])
    with pytest.raises(UserError, match="a.safetensors has [0-9]+ bytes of [0-9]+.*--teacher_cache_fill true"):
        Shard(path, entry)
    path.unlink()
    with pytest.raises(UserError, match="a.safetensors is missing"):
        Shard(path, entry)


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    import errno

    with (
        pytest.raises(UserError, match="the disk is full; what is written already stays"),
        new_shard(tmp_path / "a.safetensors", 4),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
