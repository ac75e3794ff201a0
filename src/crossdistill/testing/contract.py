"""The contract of a method: what the training loop, the checkpoints and the exports rely on, whatever the method."""

import copy
import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from docstring_parser import parse as parse_docstring
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller
from crossdistill.errors import UserError
from crossdistill.methods import hyperparameters
from crossdistill.models import save_model
from crossdistill.staged.modes import eval_mode
from crossdistill.testing.declared import hide_undeclared, only_declared
from crossdistill.testing.tiny_models import CLASSES, SIDE, TINY, Builder, Size, staged

# "teacher->student", by the names of `TINY`.
PAIRS = (
    "vit->cnn",
    "cnn->vit",
    "swin->distilled",
    "mlp->cnn",
    "vit->mlp",
    "cnn->swin",
    "hybrid->cnn",
    "cnn->hybrid",
)
# How many of a method's pairs are not marked slow, and how the marker is explained by `pytest --markers`.
_ALWAYS = 3
_SLOW = "slow: takes long; left out by -m 'not slow'"
# What is asked of a constructor that takes the number of training images.
_TRAIN_SIZE = 60


# Pairs of models so small may well be warned of.
@pytest.mark.filterwarnings("ignore::crossdistill.errors.UserCaution")
class MethodContract:
    """What every method promises. A subclass names the method, and pytest runs the promises on pairs of tiny models.

    The first three pairs that the method fits run always, compiled the first alone. The others, and the default
    compiler, are marked `slow`: `pytest -m "not slow"` leaves them out. The marker is registered here.

    Attributes:
        method: the class.
        hyperparameters: arguments of its constructor, where the defaults are not for models so small.
        pairs: "teacher->student" each, by the names of `models`; those that the method is made for come first.
        refuses: pairs that the method must refuse with a `UserError` of one line, and a part of that line.
        models: builders of the models by name; each is called with `img_size`, a side or (height, width).
        without_draws: hyper-parameters with which a step draws no random numbers, dropout aside: compiled code draws
            others.
        steps_until_settled: training steps until a step finds no state of another shape than the one before, and so
            is not compiled anew.
        always_compiled: whether the first pair is compiled in every test run; False leaves it to the slow ones, for a
            method that is a formula of what the models give.
        bf16_tolerance: how far the loss under bfloat16 autocast may be from the exact one, relative and absolute.
    """

    method: type[Distiller]
    hyperparameters: Mapping[str, Any] = {}
    pairs: Sequence[str] = PAIRS
    refuses: Mapping[str, str] = {}
    models: Mapping[str, Builder] = TINY
    without_draws: Mapping[str, Any] = {}
    steps_until_settled: int = 1
    always_compiled: bool = True
    bf16_tolerance: float = 0.05

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Give each test the pairs that it asks for, by the name of its argument."""
        # Before the mark is made: a project may allow no marker that is not registered.
        if not any(line.startswith("slow:") for line in metafunc.config.getini("markers")):
            metafunc.config.addinivalue_line("markers", _SLOW)
        fitting = self.fitting_pairs()
        slow = [pytest.param(pair, marks=pytest.mark.slow) for pair in fitting]
        choices: dict[str, list[Any]] = {
            "pair": fitting[:_ALWAYS] + slow[_ALWAYS:],
            "chosen_pair": fitting[:_ALWAYS],
            "compiled_pair": (fitting if self.always_compiled else slow)[:1] + slow[1:2],
            "slow_pair": slow[:1],
        }
        for argument, pairs in choices.items():
            if argument in metafunc.fixturenames:
                metafunc.parametrize(argument, pairs)

    @pytest.fixture(autouse=True)
    def _same_random_numbers(self) -> None:
        torch.manual_seed(0)

    def fitting_pairs(self) -> list[str]:
        """The pairs that the method must take, each once."""
        return [pair for pair in dict.fromkeys(self.pairs) if pair not in self.refuses]

    def build(self, pair: str, img_size: Size = SIDE, **changes: Any) -> Distiller:
        """The method on a pair, in training mode and prepared; the same in every call.

        Args:
            pair: "teacher->student".
            img_size: side in pixels, or (height, width).
            changes: further hyper-parameters.
        """
        teacher, student = (staged(name, self.models[name], img_size) for name in pair.split("->"))
        arguments = {**self.hyperparameters, **changes}
        if "train_size" in inspect.signature(self.method).parameters:
            arguments["train_size"] = _TRAIN_SIZE
        torch.manual_seed(0)
        distiller = self.method(student, teacher, **arguments).train()
        distiller.prepare([draw_batch(img_size=img_size)[0]])
        return distiller

    # What a step gives

    def test_terms_are_named_finite_scalars_and_reach_all_that_is_trained(self, pair: str) -> None:
        distiller = self.build(pair)
        terms = step_terms(distiller, *draw_batch())
        assert terms, "the method gives no loss term"
        for name, term in terms.items():
            assert isinstance(name, str) and name, "a term has no name"
            assert term.shape == (), f"the term {name} is no scalar"
            assert torch.isfinite(term), f"the term {name} is not finite"
        total(terms).backward()
        for name, parameter in distiller.named_parameters():
            if name.startswith("teacher."):
                assert not parameter.requires_grad and parameter.grad is None, f"{name} is trained"
            elif parameter.requires_grad:
                # Other processes wait for the gradient of every parameter, so a part that is switched off gets zeros.
                assert parameter.grad is not None, f"no term reaches {name}"

    def test_teacher_stays_in_eval_mode_and_unchanged(self, pair: str) -> None:
        distiller = self.build(pair)
        assert distiller.teacher is not None
        before = copy.deepcopy(distiller.teacher.model.state_dict())
        distiller.eval()
        distiller.train()
        total(step_terms(distiller, *draw_batch())).backward()
        assert not any(module.training for module in distiller.teacher.modules())
        for name, tensor in distiller.teacher.model.state_dict().items():
            assert torch.equal(tensor, before[name]), f"the teacher's {name} has changed"

    def test_reads_only_what_it_declares(self, pair: str) -> None:
        whole, hidden = self.build(pair), self.build(pair)
        hide_undeclared(hidden)
        given = self.build(pair)
        assert given.teacher is not None
        images, labels = draw_batch()
        with torch.no_grad():
            outputs = only_declared(given.teacher(images), given.needs.teacher)
        expected = seeded_terms(whole, images, labels)
        try:
            actual = seeded_terms(hidden, images, labels)
            from_outputs = seeded_terms(given, images, labels, teacher_outputs=outputs)
        except (TypeError, AttributeError) as error:
            raise AssertionError(f"a step reads what its needs, {whole.needs}, do not name: {error}") from error
        torch.testing.assert_close(actual, expected)
        # What the teacher says of the images may be known already.
        torch.testing.assert_close(from_outputs, expected)

    def test_images_without_labels_are_taken_or_refused_as_declared(self) -> None:
        distiller = self.build(self.fitting_pairs()[0])
        images, labels = draw_batch()
        if distiller.needs.labels:
            with pytest.raises(UserError, match="labels"):
                step_terms(distiller, images, None)
            return
        of_labels = distiller.label_terms(distiller.student(images), labels)
        try:
            terms = step_terms(distiller, images, None)
        except (TypeError, AttributeError) as error:
            raise AssertionError(f"a step without labels fails; declare Needs(labels=True)? {error}") from error
        assert torch.isfinite(total(terms))
        for name, values in validated(distiller, images, None).items():
            assert values.shape == (len(images),), f"without labels the metric {name} is not one value per image"
        total(terms).backward()
        for name, parameter in distiller.named_parameters():
            assert parameter.grad is not None or not parameter.requires_grad, f"without labels no term reaches {name}"
        assert terms.keys() == step_terms(distiller, images, labels).keys() - of_labels.keys()

    def test_a_batch_of_one(self) -> None:
        # Batch norms on a map of one position cannot train on one image, whatever the method.
        pairs = [pair for pair in self.fitting_pairs() if pair.partition("->")[2] not in ("cnn", "hybrid")]
        if not pairs:
            pytest.skip("every student that the method takes has batch norms on a map of one position")
        assert torch.isfinite(total(step_terms(self.build(pairs[0]), *draw_batch(1))))

    def test_soft_labels(self) -> None:
        images, labels = draw_batch()
        soft = F.one_hot(labels, CLASSES).float() * 0.9 + 0.1 / CLASSES
        assert torch.isfinite(total(step_terms(self.build(self.fitting_pairs()[0]), images, soft)))

    @pytest.mark.parametrize("img_size", [(48, 48), (32, 64)], ids=lambda size: f"{size[0]}x{size[1]}")
    def test_other_image_sizes_and_images_that_are_not_square(
        self, chosen_pair: str, img_size: tuple[int, int]
    ) -> None:
        distiller = self.build(chosen_pair, img_size)
        assert torch.isfinite(total(step_terms(distiller, *draw_batch(img_size=img_size))))

    def test_validation_metrics_are_one_value_per_image_and_change_nothing(self, chosen_pair: str) -> None:
        distiller = self.build(chosen_pair)
        modes = {name: module.training for name, module in distiller.named_modules()}
        before = copy.deepcopy(distiller.state_dict())
        for name, values in validated(distiller, *draw_batch(5)).items():
            assert values.shape == (5,), f"the metric {name} is not one value per image"
        assert modes == {name: module.training for name, module in distiller.named_modules()}
        for name, tensor in distiller.state_dict().items():
            assert torch.equal(tensor, before[name]), f"an evaluation changes {name}"

    # What is saved

    def test_same_seed_same_loss_and_state_dict_round_trip(self, pair: str) -> None:
        one, two = self.build(pair), self.build(pair)
        batch = draw_batch()
        assert torch.equal(total(seeded_terms(one, *batch)), total(seeded_terms(two, *batch))), "the loss is another"
        assert one.teacher is not None
        state = one.state_dict(keep_vars=True)
        frozen = {tensor.data_ptr() for tensor in one.teacher.state_dict().values() if tensor.numel()}
        for name, tensor in state.items():
            assert not name.startswith("teacher.") and tensor.data_ptr() not in frozen, f"{name} is the teacher's"
        # One that has not taken that step: all that the next one depends on must come with the state dict.
        fresh = self.build(pair)
        with torch.no_grad():
            for parameter in [*two.student.parameters(), *fresh.student.parameters()]:
                parameter.add_(torch.randn_like(parameter))
        two.load_state_dict(state)
        # Also inside another module, as in a trainer of one's own.
        nn.ModuleDict({"method": fresh}).load_state_dict(nn.ModuleDict({"method": one}).state_dict())
        expected = total(seeded_terms(one, *batch))
        for loaded in (two, fresh):
            assert torch.equal(total(seeded_terms(loaded, *batch)), expected), "a loaded state gives another loss"

    def test_extra_parameters_are_what_the_student_does_not_own(self) -> None:
        distiller = self.build(self.fitting_pairs()[0])
        student = sum(parameter.numel() for parameter in distiller.student.parameters())
        trained = sum(parameter.numel() for parameter in distiller.parameters() if parameter.requires_grad)
        critic = sum(p.numel() for p in distiller.critic.parameters()) if distiller.critic is not None else 0
        assert distiller.extra_parameters() == trained - student + critic

    def test_saved_student_has_the_tensors_of_the_plain_model(self, tmp_path: Path) -> None:
        pair = self.fitting_pairs()[0]
        distiller = self.build(pair)
        total(step_terms(distiller, *draw_batch())).backward()
        save_model(distiller.student, tmp_path / "student.safetensors")
        saved = safetensors.torch.load_file(tmp_path / "student.safetensors")
        name = pair.partition("->")[2]
        plain = staged(name, self.models[name]).model.state_dict()
        assert {name: tensor.shape for name, tensor in saved.items()} == {n: t.shape for n, t in plain.items()}

    # Precision and compilation

    def test_bf16_autocast_is_near_float32(self, chosen_pair: str) -> None:
        distiller = self.build(chosen_pair).eval()
        exact = total(seeded_terms(distiller, *draw_batch()))
        with torch.autocast("cpu", torch.bfloat16):
            rounded = total(seeded_terms(distiller, *draw_batch()))
        torch.testing.assert_close(rounded.float(), exact, rtol=self.bf16_tolerance, atol=self.bf16_tolerance)

    def test_steps_in_bf16_leave_finite_gradients(self, chosen_pair: str) -> None:
        distiller = self.build(chosen_pair)
        trained = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=1e-3)
        critic_optimizer = distiller.critic_optimizer() if distiller.critic is not None else None
        # Two, for what the first one leaves behind: feedback, a batch for the critic.
        for _ in range(2):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                total(step_terms(distiller, *draw_batch())).backward()
            assert all(torch.isfinite(p.grad).all() for p in trained if p.grad is not None)
            optimizer.step()
            if distiller.critic is None or critic_optimizer is None:
                continue
            assert distiller.critic_batch is not None, "a step left nothing for the critic"
            critic_optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                distiller.critic(*distiller.critic_batch).backward()
            for name, parameter in distiller.critic.named_parameters():
                assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), f"critic.{name}"
            critic_optimizer.step()

    def test_compiled_steps_give_the_same_loss_and_are_compiled_once(self, compiled_pair: str) -> None:
        eager, other = self.build(compiled_pair), self.build(compiled_pair)
        torch._dynamo.reset()
        compiled: Any = torch.compile(other, backend="aot_eager")
        for step in range(self.steps_until_settled):
            terms = [seeded_terms(part, *draw_batch(seed=step)) for part in (eager, compiled)]
            torch.testing.assert_close(terms[1], terms[0], rtol=1e-4, atol=1e-5)
        other.progress.fill_(0.5)
        with torch._dynamo.config.patch(error_on_recompile=True):
            total(seeded_terms(compiled, *draw_batch(seed=self.steps_until_settled))).backward()

    @pytest.mark.filterwarnings("ignore")  # what the compiler warns of is not the method's
    def test_the_default_compiler_gives_the_same_loss_and_gradient(self, slow_pair: str) -> None:
        distiller = self.build(slow_pair, **self.without_draws)
        for part in distiller.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        batch = draw_batch()
        state = copy.deepcopy(distiller.state_dict())
        expected = total(step_terms(distiller, *batch))
        expected.backward()
        gradients = {name: p.grad.clone() for name, p in distiller.student.named_parameters() if p.grad is not None}
        distiller.zero_grad()
        distiller.load_state_dict(state)
        torch._dynamo.reset()
        compiled: Any = torch.compile(distiller)
        actual = total(step_terms(compiled, *batch))
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
        actual.backward()
        for name, parameter in distiller.student.named_parameters():
            if name in gradients:
                torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-2, atol=1e-4)

    # What a user is told

    def test_hyperparameters_have_a_type_and_a_text(self) -> None:
        documented = {entry.arg_name: entry.description for entry in parse_docstring(self.method.__doc__ or "").params}
        for name, parameter in hyperparameters(self.method).items():
            assert parameter.annotation is not inspect.Parameter.empty, f"{name} has no type: --method.kwargs needs it"
            assert documented.get(name), f"{name} is not under Args of the docstring: `crossdistill methods` shows it"

    def test_ranges_are_of_hyperparameters_and_hold_the_defaults(self) -> None:
        arguments = hyperparameters(self.method)
        assert self.method.ranges.keys() <= arguments.keys(), "a range is of no argument of the constructor"
        pair = self.fitting_pairs()[0]
        built = self.build(pair)
        for name, range_ in self.method.ranges.items():
            default = arguments[name].default
            # Where it is None the method decides, by its variant for one, and keeps it under the argument's name.
            part, _, own = name.rpartition(".")
            owner = built.get_submodule(f"parts.{part}") if part else built
            value = getattr(owner, own) if default is None else default
            assert range_.holds(value), f"the default of {name}, {value}, is outside of {range_}"
        for end in (0, 1):
            ends: dict[str, Any] = {name: range_.ends[end] for name, range_ in self.method.ranges.items()}
            self.build(pair, **ends)

    def test_pairs_that_do_not_fit_are_refused_in_one_line(self) -> None:
        for pair, reason in self.refuses.items():
            with pytest.raises(UserError, match=re.escape(reason)) as refusal:
                self.build(pair)
            assert "\n" not in str(refusal.value), pair


def draw_batch(count: int = 4, img_size: Size = SIDE, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and labels, the same for every call with the same arguments."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, height, width, generator=generator)
    return images, torch.randint(CLASSES, (count,), generator=generator)


def step_terms(distiller: nn.Module, images: Tensor, labels: Tensor | None, **arguments: Any) -> dict[str, Tensor]:
    """The terms of one step, called as the training loop calls it."""
    return distiller(images, labels, indices=torch.arange(len(images)), **arguments)


def seeded_terms(distiller: nn.Module, images: Tensor, labels: Tensor | None, **arguments: Any) -> dict[str, Tensor]:
    """The same, with the same random numbers in every call."""
    torch.manual_seed(3)
    return step_terms(distiller, images, labels, **arguments)


@torch.no_grad()
def validated(distiller: Distiller, images: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    """The validation metrics of a batch, asked for as the training loop asks."""
    with eval_mode(distiller.student):
        outputs = distiller.student(images)
        return distiller.validation_metrics(
            Batch(images, labels, torch.arange(len(images))),  # type: ignore[arg-type]
            distiller.student,
            outputs,
        )


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The loss."""
    return torch.stack(list(terms.values())).sum()
