"""Every method, step by step: with the teacher's outputs from a cache it computes the same numbers, bit for bit."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from rich.console import Console
from test_contract import CONTRACTS, contract

from crossdistill.cache import Form, Replay, TeacherCache
from crossdistill.data import Batch, Mixer, TensorSource, TrainLoader
from crossdistill.distiller import Distiller
from crossdistill.errors import UserError
from crossdistill.options import DataOptions
from crossdistill.staged import Outputs
from crossdistill.testing.tiny_models import CLASSES, SIDE

NEVER_SERVED = {"attention", "views"}


def stream(mixed: bool) -> Replay:
    pixels = torch.randint(256, (9, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    train = TrainLoader(
        TensorSource(pixels, torch.arange(9) % CLASSES),
        image_size=(SIDE, SIDE),
        batch_size=4,
        data_seed=0,
        device="cpu",
        options=DataOptions(random_erasing=0.5),
    )
    return Replay(train, Mixer(CLASSES, 0.1, 0.5 * mixed, 1.0 * mixed, 0), total_steps=2)


def trained(distiller: Distiller, replay: Replay, cache: TeacherCache | None) -> list[torch.Tensor]:
    """Loss terms of both steps, and what they made of the student."""
    answers = cache.answers() if cache is not None else None
    optimizer = torch.optim.SGD([p for p in distiller.parameters() if p.requires_grad], lr=0.01)
    numbers = []
    for step, batch in enumerate(replay.train.epoch(0)):
        images, labels = replay.mixer(batch.images, batch.labels, step=step)
        known = answers.at(step, 0, Batch(images, labels, batch.indices)) if answers is not None else None
        torch.manual_seed(step)
        terms = distiller(images, labels, indices=batch.indices, teacher_outputs=known)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        numbers += [term.detach() for term in terms.values()]
    return numbers + list(distiller.student.state_dict().values())


@pytest.mark.filterwarnings("ignore::crossdistill.errors.UserCaution")
@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "mixed"])
@pytest.mark.parametrize("name", CONTRACTS)
def test_cached_steps_equal_steps_with_the_teacher(name: str, mixed: bool, tmp_path: Path) -> None:
    made = contract(name)()
    pair = made.fitting_pairs()[0]
    online, cached = made.build(pair), made.build(pair)
    replay = stream(mixed)
    if cached.needs.teacher & NEVER_SERVED:
        with pytest.raises(UserError, match=f"--teacher_cache: {type(cached).__name__} cannot be served by one"):
            TeacherCache(str(tmp_path), [cached], replay, Form(), {})
        return
    cache = TeacherCache(str(tmp_path), [cached], replay, Form(), {})
    cache.fill(Console(quiet=True), validation_logits=None, autocast=nullcontext)
    expected = trained(online, replay, None)
    if "segments" not in cached.needs.teacher:
        assert cached.teacher is not None
        cached.teacher.forward = None  # type: ignore[assignment]
    actual = trained(cached, replay, cache)
    assert len(actual) == len(expected)
    assert all(torch.equal(one, two) for one, two in zip(actual, expected, strict=True))


def test_a_compiled_step_takes_cached_outputs_and_is_compiled_once() -> None:
    made = contract("kd")()
    eager, other = made.build("vit->cnn"), made.build("vit->cnn")
    torch._dynamo.reset()
    compiled = torch.compile(other, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in range(3):
            images, labels = torch.rand(4, 3, SIDE, SIDE), torch.arange(4) % CLASSES
            known = Outputs(logits=torch.randn(4, CLASSES))
            expected, actual = (method(images, labels, teacher_outputs=known) for method in (eager, compiled))
            torch.testing.assert_close(actual, expected, msg=f"step {step}")
