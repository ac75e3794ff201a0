"""Runs whose teacher's outputs come from a cache: the same to the last bit, and what does not fit is refused."""

import dataclasses
import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY_VIT, metrics, quiet_run, tiny_options
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

import crossdistill
from crossdistill.cache import streams
from crossdistill.cache.fill import Filler
from crossdistill.cache.shards import Shard
from crossdistill.errors import UserError
from crossdistill.methods.kd import KD
from crossdistill.options import MethodOptions, ModelOptions, TrainingOptions
from crossdistill.staged import Outputs, StagedModel
from crossdistill.testing.tiny_models import SIDE, tiny_cnn, tiny_vit
from crossdistill.training.filling import fill_cache
from crossdistill.training.state import seed_everything
from crossdistill.training.trainer import Trainer

QUIET = Console(quiet=True)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the program may react to it."""


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes of the passes of frozen models: the teacher's."""
    seen: list[int] = []
    forward = StagedModel.forward

    def counted(self: StagedModel, images: Tensor) -> Outputs:
        if not any(parameter.requires_grad for parameter in self.parameters()):
            seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(StagedModel, "forward", counted)
    return seen


@pytest.fixture(scope="module")
def filled(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of the tiny options' own run."""
    cache = tmp_path_factory.mktemp("cached") / "cache"
    fill_cache(tiny_options(image_folder, cache, teacher_cache=str(cache)), console=QUIET)
    return cache


@pytest.fixture
def copy(filled: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return shutil.copytree(filled, tmp_path / "cache")


def assert_same_run(one: Path, two: Path) -> None:
    assert metrics(one) == metrics(two)
    for name in ("student", "predictions"):
        first, second = load_file(one / f"{name}.safetensors"), load_file(two / f"{name}.safetensors")
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name


RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mixed": {"mixup": 0.2, "cutmix": 1.0, "accumulate": 2, "random_erasing": 0.5, "repeated_augmentation": 2},
    "workers and bfloat16": {"rand_augment": "rand-m9-mstd0.5-inc1", "workers": 1, "precision": "bf16-mixed"},
    "channels last": {"channels_last": "true", "method": MethodOptions("pat", {"width": 32})},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_cached_run_equals_the_run_with_its_teacher(
    name: str, image_folder: Path, tmp_path: Path, passes: list[int]
) -> None:
    quiet_run(tiny_options(image_folder, tmp_path / "online", **RUNS[name]))
    options = tiny_options(image_folder, tmp_path / "cached", teacher_cache=str(tmp_path / "cache"), **RUNS[name])
    fill_cache(options, console=QUIET)
    passes.clear()
    summary = quiet_run(options)
    assert_same_run(tmp_path / "online", tmp_path / "cached")
    assert summary["teacher_cache"] == "replay"
    online = json.loads((tmp_path / "online" / "summary.json").read_text())
    assert online["teacher_cache"] is None and online["teacher_top1"] == summary["teacher_top1"]
    if options.method.name == "kd":
        assert not passes, "the teacher ran"


def test_a_cached_run_that_was_killed_goes_on_exactly(
    image_folder: Path, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: list[int]
) -> None:
    cached = {"teacher_cache": str(filled), "checkpoint_every": 3}
    quiet_run(tiny_options(image_folder, tmp_path / "whole", checkpoint_every=3))
    optimise = Trainer._optimise

    def dying(self: Trainer, batches: Any) -> Any:
        if self.state.step == 7:
            raise Killed
        return optimise(self, batches)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_optimise", dying)
        with pytest.raises(Killed):
            quiet_run(tiny_options(image_folder, tmp_path / "broken", **cached))
    passes.clear()
    quiet_run(TrainingOptions(output=str(tmp_path / "broken"), resume=True))
    assert not passes
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.filterwarnings("ignore::crossdistill.errors.UserCaution")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_seed": 1}, "--data_seed: 0 in the cache, 1 in this run"),
        ({"batch_size": 6}, "--batch_size: 12 in the cache, 6 in this run"),
        ({"flip": 0.2}, "--flip: 0.5 in the cache, 0.2 in this run"),
        ({"crop": "none"}, "--crop: shifted in the cache, none in this run"),
        ({"mixup": 0.5}, "--mixup: 0.0 in the cache, 0.5 in this run"),
        ({"held_out": 0.2, "batch_size": 8}, "number of training images: 60 in the cache"),
        (
            {"image_size": 40, "teacher_image_size": 32},
            "batches: 32 32 in the cache, 40 40 in this run",
        ),
        ({"teacher": ModelOptions("test_resnet")}, "teacher: vit_tiny_patch16_224 in the cache"),
        (
            {"teacher": ModelOptions("vit_tiny_patch16_224", TINY_VIT | {"qkv_bias": False})},
            "does not fit this run: teacher's arguments: ",
        ),
        ({"seed": 1, "data_seed": 0}, "fingerprint of the teacher's weights: "),
        ({"precision": "bf16-mixed"}, "--precision: 32 in the cache, bf16-mixed in this run"),
        ({"teacher_cache_top_k": 1}, "--teacher_cache_top_k: none in the cache, 1 in this run"),
        ({"teacher_cache_mode": "static"}, "--teacher_cache_mode: replay in the cache"),
        ({"epochs": 3}, "has no logits from step 11 on: go on filling it"),
        ({"method": MethodOptions("fbt")}, "has no pooled, which FBT reads"),
        ({"method": MethodOptions("cakd")}, "CAKD cannot be served by one, it reads queries, keys and values"),
        ({"teacher_cache": "nowhere"}, "there is no teacher cache in nowhere: fill it with `crossdistill cache`"),
        ({"channels_last": "auto"}, "a teacher cache is of one memory order: give true or false"),
        ({"teacher_cache": "", "teacher_cache_fill": True}, "name the folder with --teacher_cache"),
        ({"teacher": ModelOptions(), "method": MethodOptions("scratch")}, "is of a teacher, and there is none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused_in_one_line(
    changes: dict[str, Any], message: str, image_folder: Path, filled: Path, tmp_path: Path, passes: list[int]
) -> None:
    options = tiny_options(image_folder, tmp_path / "run", **({"teacher_cache": str(filled)} | changes))
    with pytest.raises(UserError, match=message) as refusal:
        quiet_run(options)
    assert "\n" not in str(refusal.value)
    # A constructor may look at a grey image.
    assert max(passes, default=0) <= 1 and not (tmp_path / "run").exists()


def test_images_that_changed_behind_the_options_are_noticed(
    image_folder: Path, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossdistill.data import augment

    shifted = augment.shifted_crop
    monkeypatch.setattr(augment, "shifted_crop", lambda *arguments: shifted(*arguments).flip(0))
    with pytest.raises(UserError, match="is of other images from step 1 on, though all options agree"):
        quiet_run(tiny_options(image_folder, tmp_path / "run", teacher_cache=str(filled)))


def test_a_shorter_run_and_a_method_that_reads_less_are_served(
    image_folder: Path, tmp_path: Path, passes: list[int]
) -> None:
    cache = {"teacher_cache": str(tmp_path / "cache")}
    fill_cache(tiny_options(image_folder, tmp_path, **cache), ["fbt", "ofa"], QUIET)
    assert {path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()} == {"logits", "pooled", "seen"}
    passes.clear()
    quiet_run(tiny_options(image_folder, tmp_path / "run", epochs=1, **cache))
    quiet_run(tiny_options(image_folder, tmp_path / "ofa", max_steps=3, method=MethodOptions("ofa"), **cache))
    assert not passes


def test_what_is_missing_is_filled_on_request_and_only_that(
    image_folder: Path, copy: Path, tmp_path: Path, passes: list[int]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.safetensors")}
    options = {"epochs": 3, "method": MethodOptions("fbt"), "teacher_cache": str(copy), "teacher_cache_fill": True}
    quiet_run(tiny_options(image_folder, tmp_path / "run", **options))
    assert (copy / "pooled" / "epoch0002-part000-rank0.safetensors").exists()
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_fill_that_was_killed_goes_on(
    image_folder: Path, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: list[int]
) -> None:
    cache = tmp_path / "cache"
    options = tiny_options(image_folder, tmp_path, teacher_cache=str(cache))
    write, rounds = Filler._write, []

    def dying(self: Filler, *arguments: Any) -> Any:
        rounds.append(arguments)
        if len(rounds) == 2:
            raise Killed
        return write(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Filler, "_write", dying)
        with pytest.raises(Killed):
            fill_cache(options, console=QUIET)
    first = cache / "logits" / "epoch0000-part000-rank0.safetensors"
    written = first.stat().st_mtime_ns
    fill_cache(options, console=QUIET)
    assert first.stat().st_mtime_ns == written
    for file in filled.rglob("*.safetensors"):
        assert (cache / file.relative_to(filled)).read_bytes() == file.read_bytes()
    passes.clear()
    fill_cache(options, console=QUIET)
    assert not passes, "a complete cache was filled again"


def test_a_damaged_shard_is_named_and_made_again_on_request(image_folder: Path, copy: Path, tmp_path: Path) -> None:
    shard = copy / "logits" / "epoch0001-part000-rank0.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-3] + b"\0\0\0")
    options = tiny_options(image_folder, tmp_path / "run", teacher_cache=str(copy))
    with pytest.raises(UserError, match=f"{shard.name} is damaged"):
        quiet_run(options)
    # The first epoch is trained; the run goes on from there.
    resumed = TrainingOptions(output=str(tmp_path / "run"), resume=True, teacher_cache_fill=True)
    resumed.teacher_cache = str(copy)
    quiet_run(resumed)
    assert shard.read_bytes() == whole
    shard.write_bytes(whole[:-3])
    with pytest.raises(UserError, match=f"{shard.name} has .* bytes of"):
        quiet_run(dataclasses.replace(options, output=str(tmp_path / "other")))
    assert not (tmp_path / "other").exists()


def test_a_cache_that_the_disk_would_not_hold_is_not_begun(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1000))
    options = tiny_options(image_folder, tmp_path, teacher_cache=str(tmp_path / "cache"))
    with pytest.raises(UserError, match="needs 2 kB and the disk of .* has 1 kB free: choose another folder"):
        fill_cache(options, console=QUIET)
    assert not (tmp_path / "cache").exists()


def test_what_it_costs_is_told_first(image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = tiny_options(image_folder, tmp_path, teacher_cache=str(tmp_path / "cache"), teacher_cache_top_k=2)
    fill_cache(options)
    assert "kB to write (logits.values 1 kB, logits.classes 1 kB, logits.rest 0 kB), about 0:00:0" in (
        capsys.readouterr().out
    )
    quiet_run(dataclasses.replace(options, output=str(tmp_path / "run")))


def test_static_outputs_are_those_of_the_images_themselves(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: list[int]
) -> None:
    monkeypatch.setattr(streams, "SHARD_IMAGES", 25)
    options = tiny_options(
        image_folder,
        tmp_path / "run",
        teacher_cache=str(tmp_path / "cache"),
        teacher_cache_mode="static",
        crop="none",
        flip=0.0,
    )
    fill_cache(options, console=QUIET)
    assert len(list((tmp_path / "cache" / "logits").iterdir())) == 3
    passes.clear()
    assert quiet_run(options)["teacher_cache"] == "static"
    assert not passes
    # Without augmentation both are the same experiment, but for rounding in batches of another size.
    quiet_run(dataclasses.replace(options, output=str(tmp_path / "online"), teacher_cache=""))
    for one, two in zip(metrics(tmp_path / "run"), metrics(tmp_path / "online"), strict=True):
        assert all(
            value == (two[name] if name == "kind" else pytest.approx(two[name], 1e-3)) for name, value in one.items()
        )
    with pytest.raises(UserError, match="--teacher_cache_mode static .* show it mixed ones: use replay"):
        quiet_run(dataclasses.replace(options, output=str(tmp_path / "mixed"), mixup=0.2))


def test_a_shard_is_read_once(
    image_folder: Path, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    init = Shard.__init__

    def counted(self: Shard, path: Path, entry: Any) -> None:
        opened.append(path)
        init(self, path, entry)

    monkeypatch.setattr(Shard, "__init__", counted)
    quiet_run(tiny_options(image_folder, tmp_path / "run", teacher_cache=str(filled)))
    assert len(opened) == len(set(opened)) == 4


def test_live_objects_fill_and_use_a_cache(image_folder: Path, tmp_path: Path, passes: list[int]) -> None:
    def run(output: str, **changes: Any) -> None:
        seed_everything(0)
        student = StagedModel(tiny_cnn(), name="test_resnet", image_size=SIDE)
        method = KD(student, StagedModel(tiny_vit(), name="vit", image_size=SIDE))
        values: dict[str, Any] = {"epochs": 2, "batch_size": 12, "log_every": 2, "crop": "shifted", "workers": 0}
        values |= {"accelerator": "cpu", "allow_weak_teacher": True, "output": str(tmp_path / output)} | changes
        crossdistill.train(method, str(image_folder), TrainingOptions(**values), QUIET)

    cache = {"teacher_cache": str(tmp_path / "cache")}
    run("online")
    run("filling", teacher_cache_fill=True, **cache)
    passes.clear()
    run("cached", **cache)
    assert not passes
    assert_same_run(tmp_path / "online", tmp_path / "filling")
    assert_same_run(tmp_path / "online", tmp_path / "cached")
