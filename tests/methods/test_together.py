"""Several methods on one pass of each model."""

import warnings
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import UserCaution, UserError
from crossdistill.methods import build_distiller, hyperparameters, load_method, method_name, parse_hyperparameters
from crossdistill.options import MethodOptions
from crossdistill.staged import Outputs
from crossdistill.testing import TINY, MethodContract, draw_batch, staged


class TestKDFitNet(MethodContract):
    always_compiled = False
    method = load_method("kd+fitnet")
    pairs = ("vit->cnn", "cnn->vit")


class TestCAKDCRDPAT(MethodContract):
    """One that changes the pass and has a critic, one with banks, one with state of each process."""

    method = load_method("cakd+crd+pat")
    pairs = ("vit->cnn",)
    hyperparameters: ClassVar = {"crd.num_negatives": 16}
    without_draws: ClassVar = {
        "cakd.replacement_probability": 0.0,
        "cakd.view_probability": 0.0,
        "crd.num_negatives": 60,
    }
    always_compiled = False
    steps_until_settled = 2


@pytest.fixture(autouse=True)
def _without_cautions() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserCaution)
        yield


def build(name: str, pair: str = "vit->cnn", **kwargs: Any) -> Distiller:
    teacher, student = (staged(one, TINY[one]) for one in pair.split("->"))
    torch.manual_seed(0)
    distiller = build_distiller(MethodOptions(name, kwargs), student, teacher, train_size=60).train()
    distiller.prepare([draw_batch()[0]])
    return distiller


def step(distiller: Distiller) -> dict[str, Tensor]:
    images, labels = draw_batch()
    return distiller(images, labels, indices=torch.arange(len(images)))


def test_terms_are_those_of_each_and_labels_count_once() -> None:
    both = step(build("rkd+kd", kd={"temperature": 2.0}))
    rkd, kd = step(build("rkd")), step(build("kd", temperature=2.0, label_weight=1.0))
    assert both.keys() == rkd.keys() | kd.keys()
    for name, term in both.items():
        torch.testing.assert_close(term, (rkd | kd)[name])


def test_a_name_that_two_give_gets_the_methods_in_front() -> None:
    terms = step(build("fitnet+at+kd"))
    assert {"fitnet.stage1", "at.stage1", "logits", "labels"} <= terms.keys()
    assert not any(name.startswith(("kd.", "stage")) for name in terms)


def test_each_model_runs_once() -> None:
    distiller = build("kd+fitnet+rkd+dist")
    calls = {"student": 0, "teacher": 0}
    for role in calls:
        model = getattr(distiller, role)
        forward = model.forward

        def counted(images: Tensor, role: str = role, forward: Any = forward) -> Outputs:
            calls[role] += 1
            return forward(images)

        model.forward = counted
    step(distiller)
    assert calls == {"student": 1, "teacher": 1}


def test_no_tensor_is_twice_in_the_state_and_none_is_the_teachers() -> None:
    distiller = build("cakd+crd+vid")
    state = distiller.state_dict(keep_vars=True)
    assert len({id(tensor) for tensor in state.values()}) == len(state)
    assert not any(".student." in name or "teacher." in name for name in state)
    assert {name for name in state if name.startswith("parts.")}
    assert set(distiller.rank_local) <= state.keys() and distiller.rank_local


def test_progress_reaches_every_method_in_its_own_unit() -> None:
    distiller = build("dkd+cakd", cakd={"variant": "released"})
    distiller.set_progress(0.5, 0.25)
    assert isinstance(distiller.parts, torch.nn.ModuleDict)
    assert [float(distiller.parts[name].progress) for name in ("dkd", "cakd")] == [0.5, 0.25]


def test_the_critic_is_the_one_methods() -> None:
    distiller = build("kd+cakd", cakd={"critic_every": 3})
    step(distiller)
    assert distiller.critic is not None and distiller.critic_batch is not None and distiller.critic_every == 3
    distiller.critic(*distiller.critic_batch).backward()
    own = {id(parameter) for parameter in distiller.critic.parameters()}
    assert not own & {id(parameter) for parameter in distiller.parameters()}
    assert own == {id(p) for group in distiller.critic_optimizer().param_groups for p in group["params"]}


def test_labels_are_learnt_as_the_one_method_says() -> None:
    images, labels = draw_batch()
    distiller = build("kd+deit", "cnn->distilled")
    heads = distiller.student(images).head_logits
    expected = torch.nn.functional.cross_entropy(heads["class"], labels)
    torch.testing.assert_close(step(distiller)["labels"], expected)


def test_all_read_what_one_runs() -> None:
    class Darker(Distiller):
        """Shows the student darker images, and needs no teacher."""

        def run_models(self, batch: Batch, teacher_outputs: Outputs | None) -> tuple[Outputs, Outputs]:
            return self.student(batch.images / 2), self.teach(batch.images, teacher_outputs)

        def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
            return {}

    from crossdistill.methods.together import together

    teacher, student = (staged(one, TINY[one]) for one in ("vit", "cnn"))
    distiller = together(("darker", Darker), ("rkd", load_method("rkd")))(student.eval(), teacher)
    images, labels = draw_batch()
    expected = load_method("rkd")(student, teacher).terms(
        student(images / 2), teacher(images), Batch(images, labels, labels)
    )
    terms = distiller(images, labels)
    for name, term in expected.items():
        torch.testing.assert_close(terms[name], term)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cakd+minilm", "cakd and minilm do not go together"),
        ("kd+kd", "names kd twice"),
        ("kd+fitnett", "unknown method 'fitnett'; did you mean 'fitnet'?"),
        ("kd+", "unknown method ''"),
    ],
)
def test_what_does_not_go_together_is_refused(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as refusal:
        build(name)
    assert "\n" not in str(refusal.value)


def test_two_critics_are_refused() -> None:
    class Adversary(Distiller):
        """Has a critic and leaves the pass as it is."""

        def __init__(self, student: Any, teacher: Any) -> None:
            super().__init__(student, teacher)
            self.critic = torch.nn.Linear(1, 1)

    from crossdistill.methods.together import together

    teacher, student = (staged(one, TINY[one]) for one in ("vit", "cnn"))
    with pytest.raises(UserError, match="one and other have a critic each"):
        together(("one", Adversary), ("other", Adversary))(student, teacher)


def test_a_pair_is_refused_by_the_method_that_refuses_it() -> None:
    with pytest.raises(UserError, match="MiniLM learns from the last attention block"):
        build("kd+minilm", "cnn->vit")


def test_hyperparameters_are_nested_or_dotted_and_checked() -> None:
    nested = MethodOptions("kd+fitnet", {"kd": {"temperature": 2}, "fitnet": {"stages": [1]}, "label_weight": 0.5})
    dotted = MethodOptions("kd+fitnet", {"kd.temperature": 2, "fitnet.stages": [1], "label_weight": 0.5})
    expected = {"kd.temperature": 2.0, "fitnet.stages": [1], "label_weight": 0.5}
    assert parse_hyperparameters(nested) == parse_hyperparameters(dotted) == expected
    for wrong, reason in (
        ({"temperature": 2}, "no hyper-parameter 'temperature'; did you mean 'kd.temperature'?"),
        ({"kd": {"temperatur": 2}}, "no hyper-parameter 'kd.temperatur'; did you mean 'kd.temperature'?"),
        ({"kd": {"label_weight": 2}}, "the labels count once"),
        ({"kd": {"temperature": "warm"}}, "method kd: temperature: expected a number, got 'warm'"),
        ({"kd": 3}, "no hyper-parameter 'kd'"),
    ):
        with pytest.raises(UserError, match=reason):
            parse_hyperparameters(MethodOptions("kd+fitnet", wrong))


def test_the_class_says_what_all_need_and_where_all_are_searched() -> None:
    method = load_method("dkd+fitnet")
    assert method.needs == Needs({"logits", "features"}, {"logits", "features"}, labels=True)
    assert {"dkd.beta", "fitnet.feature_weight"} <= method.ranges.keys() <= hyperparameters(method).keys()
    assert method_name(method) == "dkd+fitnet" and load_method("dkd+fitnet") is method


def test_the_label_weight_that_a_method_loses_is_told() -> None:
    with pytest.warns(UserCaution, match=r"weight 1 \(0.1 in kd alone\)"):
        build_distiller(MethodOptions("kd+fitnet"), staged("cnn", TINY["cnn"]), staged("vit", TINY["vit"]))
