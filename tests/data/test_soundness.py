from pathlib import Path

import pytest

from crossdistill.data import soundness
from crossdistill.data.soundness import find_faults


@pytest.fixture
def files(make_folder) -> list[str]:
    root = make_folder(("train",), images=4)
    paths = sorted(str(path) for path in root.rglob("*.jpg"))
    Path(paths[2]).write_text("no image")
    return paths


def test_small_sets_leave_nothing_behind(files: list[str], cache_folder: Path):
    assert list(find_faults(files)) == [files[2]]
    assert not cache_folder.exists()


def test_findings_are_kept_until_a_file_changes(files: list[str], cache_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(soundness, "_FEW", 4)
    found = find_faults(files)
    assert list(found) == [files[2]] and len(list((cache_folder / "sound").iterdir())) == 1

    with monkeypatch.context() as patch:
        patch.setattr(soundness, "_read_all", lambda *_, **__: pytest.fail("the files were read again"))
        assert find_faults(files) == found

    Path(files[5]).write_text("broken since")
    assert list(find_faults(files)) == [files[2], files[5]]


def test_findings_are_forgotten_when_permissions_change(files: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(soundness, "_FEW", 4)
    find_faults(files)
    Path(files[0]).chmod(0o600)
    with monkeypatch.context() as patch:
        patch.setattr(soundness, "_read_all", lambda *_, **__: {files[0]: "read again"})
        assert find_faults(files) == {files[0]: "read again"}


def test_an_unwritable_cache_is_no_obstacle(files: list[str], cache_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(soundness, "_FEW", 4)
    cache_folder.write_text("a file where the folder should be")
    assert list(find_faults(files)) == [files[2]]
