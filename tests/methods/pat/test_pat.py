"""PAT's loss by hand, what each term trains, ablations, refusals."""

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossdistill.distiller import Distiller
from crossdistill.errors import UserError
from crossdistill.functional import hcl_loss
from crossdistill.methods.pat.pat import PAT
from crossdistill.staged import StagedModel
from crossdistill.testing import total, validated
from crossdistill.testing.tiny_models import SIDE, TINY
from pat.helpers import awaken, batch, make


def divergence(target: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(target || logits), mean over images."""
    wanted, given = ((answer / temperature).log_softmax(dim=1) for answer in (target, logits))
    return temperature**2 * (wanted.exp() * (wanted - given)).sum(dim=1).mean()


def test_terms_are_the_equations() -> None:
    weights = {"label_weight": 0.3, "logit_weight": 0.6, "feature_weight": 2.0, "regularization_weight": 5.0}
    method = make("vit", "cnn", temperature=2.0, **weights).double().train()
    # Fresh heads say little, and a small divergence is the same both ways.
    for model in (method.student, method.teacher):
        torch.nn.init.normal_(model.model.get_classifier().weight)
    awaken(method)
    images, labels = batch()
    method(images.flip(0).double(), labels)  # fills the memories and the statistics
    method.eval()
    terms = method(images.double(), labels)

    clean, student = method.teacher(images.double()), method.student(images.double())
    expected = {
        "labels": 0.3 * F.cross_entropy(student.logits, labels),
        "logits": 0.6 * divergence(clean.logits, student.logits, 2.0),
    }
    aligned = method._align(student)
    feature, prefix = method.teacher.enter(images.double())
    for k in (1, 2, 3, 4):
        feature = method.prompts[str(k)](feature, method.memories[str(k)].gap)
        feature, prefix = method.teacher.run_stage(k - 1, feature, prefix)
        expected[f"stage{k}"] = 2.0 * hcl_loss(aligned[k], method.standardizers[str(k)](feature))
    prompted = method.teacher.run_head(feature, prefix).logits
    expected["regularization"] = 5.0 * divergence(clean.logits, prompted, 1.0)
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name], msg=name)


def test_only_training_measures_the_clean_teacher_and_remembers_gaps() -> None:
    method = make("vit", "cnn")
    awaken(method)
    images, labels = batch()

    def state() -> dict[str, Tensor]:
        return {name: buffer.clone() for name, buffer in method.named_buffers() if name in method.rank_local}

    before = state()
    method.eval()(images, labels)
    assert all(torch.equal(before[name], value) for name, value in state().items())
    method.train()(images, labels)
    assert not any(torch.equal(before[name], value) for name, value in state().items())
    for k, feature in enumerate(method.teach(images).features, start=1):
        torch.testing.assert_close(method.standardizers[str(k)].mean.flatten(), feature.mean(dim=(0, 2, 3)))


@pytest.mark.parametrize(
    ("hyperparameters", "passes"),
    [
        ({"feedback": "previous"}, 2),
        ({"feedback": "current"}, 2),
        ({"feedback": "none"}, 2),
        ({"prompt_stages": []}, 1),
    ],
)
def test_a_step_has_one_clean_and_one_prompted_teacher_pass_and_no_third(
    hyperparameters: dict[str, object], passes: int
) -> None:
    method = make("vit", "cnn", **hyperparameters).train()
    calls: Counter[str] = Counter()
    for model in (method.student, method.teacher):
        last = model.model.get_submodule(model.stages[-1].path)
        last.register_forward_hook(lambda module, args, output, name=model.name: calls.update([name]))
    method(*batch())
    assert calls == {"cnn": 1, "vit": passes}


@pytest.mark.parametrize(("side", "share"), [(8, 1.875), (4, 1.75), (3, 1.75), (2, 1.5), (1, 1.0)])
def test_levels_of_the_loss_are_those_coarser_than_the_map(side: int, share: float) -> None:
    # The same error everywhere is left at every level; an error that averages out is left at the first only.
    assert hcl_loss(torch.full((2, 3, side, side), 2.0), torch.zeros(2, 3, side, side)).item() == pytest.approx(4.0)
    if side % 2 == 0:
        signs = 1.0 - 2.0 * (torch.arange(side)[:, None] + torch.arange(side)).remainder(2)
        checkered = signs.expand(2, 3, side, side)
        assert hcl_loss(checkered, torch.zeros_like(checkered)).item() == pytest.approx(1 / share)


def test_loss_of_a_map_that_is_not_square_does_not_change_when_it_is_turned() -> None:
    student, teacher = torch.randn(2, 3, 3, 7), torch.randn(2, 3, 3, 7)
    torch.testing.assert_close(hcl_loss(student, teacher), hcl_loss(student.mT, teacher.mT))


def test_gradient_of_the_loss_matches_finite_differences() -> None:
    student = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(hcl_loss, (student, teacher))


PARTS = ("student", "regions", "aligners", "prompts")

FLOW = {
    "labels": {"student"},
    "logits": {"student"},
    "stage": {"student", "regions", "aligners", "prompts"},
    "regularization": {"prompts"},
}


@pytest.mark.parametrize(("teacher", "student"), [("vit", "cnn"), ("cnn", "vit"), ("swin", "mlp")])
@pytest.mark.parametrize("feedback", ["previous", "current", "none"])
def test_gradient_flow(teacher: str, student: str, feedback: str) -> None:
    method = make(teacher, student, feedback=feedback).train()
    awaken(method)
    method(*batch())
    terms = method(*batch())
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    kinds = {name: total({k: v for k, v in terms.items() if k.startswith(name)}) for name in FLOW}
    for name, term in kinds.items():
        method.zero_grad()
        term.backward(retain_graph=True)
        reached = {
            part
            for part in PARTS
            if any(p.grad is not None and p.grad.abs().max() > 0 for p in getattr(method, part).parameters())
        }
        assert reached == FLOW[name], name


def test_without_prompts_the_teacher_is_matched_as_it_is() -> None:
    method = make("vit", "cnn", prompt_stages=[]).train()
    method.teacher.enter = None  # type: ignore[method-assign, assignment]
    images, labels = batch()
    terms = method(images, labels)
    assert "regularization" not in terms and not method.prompts and not method.memories
    assert validated(method, images, labels) == {}


def test_each_weight_scales_its_term() -> None:
    names = {"label_weight": "labels", "logit_weight": "logits", "feature_weight": "stage2"}
    names |= {"regularization_weight": "regularization"}
    terms = []
    for weight in (1.0, 3.0):
        torch.manual_seed(0)
        method = make("vit", "cnn", **dict.fromkeys(names, weight)).eval()
        awaken(method)
        torch.manual_seed(1)
        terms.append(method(*batch()))
    for name in names.values():
        assert terms[0][name] > 0
        torch.testing.assert_close(terms[1][name], 3 * terms[0][name])


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize(("teacher_stages", "student_stages"), [(4, 3), (3, 4)])
def test_models_with_other_numbers_of_stages_are_matched_from_the_last(
    teacher_stages: int, student_stages: int, attention: bool
) -> None:
    ends = {3: ["layer2", "layer3", "layer4"], 4: None}
    models = [
        StagedModel(TINY["cnn"](), name="cnn", image_size=SIDE, stage_ends=ends[n])
        for n in (student_stages, teacher_stages)
    ]
    method = PAT(*models, width=32, region_attention=attention).train()
    terms = method(*batch())
    assert [name for name in terms if name.startswith("stage")] == [
        f"stage{k}" for k in range(teacher_stages - 2, teacher_stages + 1)
    ]
    total(terms).backward()
    assert all(p.grad is not None for name, p in method.named_parameters() if not name.startswith("teacher."))


@pytest.mark.parametrize(("teacher", "student"), [("vit", "cnn"), ("cnn", "vit"), ("mlp", "vit")])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_images_that_are_not_square_and_larger(teacher: str, student: str, variant: str) -> None:
    def model(kind: str) -> StagedModel:
        size = (48, 64)
        return StagedModel(TINY[kind](**({} if kind == "cnn" else {"img_size": size})), name=kind, image_size=size)

    method = PAT(model(student), model(teacher), width=32, variant=variant).train()
    for _ in range(2):
        terms = method(torch.rand(2, 3, 48, 64), torch.tensor([0, 2]))
    assert torch.isfinite(total(terms))


def test_prompted_teacher_is_watched_without_touching_modes_or_statistics() -> None:
    for feedback in ("previous", "current"):
        method = make("vit", "cnn", feedback=feedback).train()
        images, labels = batch()
        method(images, labels)
        method.student.eval()
        modes = {name: module.training for name, module in method.named_modules()}
        before = copy.deepcopy(method.state_dict())
        metrics = validated(method, *batch(6))
        assert metrics["prompted_teacher_agreement"].all() and len(metrics["prompted_teacher_top1"]) == 6
        assert modes == {name: module.training for name, module in method.named_modules()}
        assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_prompted_teacher_is_compared_with_the_clean_one_and_with_the_labels() -> None:
    method = make("vit", "cnn").train()
    awaken(method)
    method(*batch(6))
    images, _ = batch(24)
    # An untrained teacher gives all images the same answer.
    assert method.teacher is not None
    with torch.no_grad():
        method.teacher.model.get_submodule("head").bias -= method.teach(images).logits.mean(dim=0)
    eager = copy.deepcopy(method).eval()
    clean = eager.teach(images)
    answers = eager._prompted_teacher(images, clean, eager._feedback({}, clean, cycle=True))[1].argmax(dim=1)
    # Wrong for every third image.
    labels = (answers + (torch.arange(24) % 3 == 0)) % 3
    metrics = validated(method, images, labels)
    expected = answers == clean.logits.argmax(dim=1)
    assert 0 < expected.sum() < 24
    assert torch.equal(metrics["prompted_teacher_agreement"], expected)
    assert torch.equal(metrics["prompted_teacher_top1"], torch.arange(24) % 3 != 0)


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"num_queries": 50}, "four times a square"),
        ({"num_queries": 4}, "four times a square"),
        ({"width": 20, "heads": 8}, "divisible by heads"),
        ({"prompt_stages": [0]}, "vit has stages 1 to 4"),
    ],
)
def test_wrong_hyperparameters_are_refused(hyperparameters: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make("vit", "cnn", **hyperparameters)


def test_teacher_that_has_no_segments_is_refused_unless_it_is_not_prompted(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = StagedModel(TINY["vit"](), name="odd", image_size=SIDE)
    student = StagedModel(TINY["cnn"](), name="cnn", image_size=SIDE)
    teacher._plan.refusal = "its blocks take rotary embeddings"
    with pytest.raises(UserError, match="odd cannot be run so"):
        PAT(student, teacher, width=32)
    terms = PAT(student, teacher, width=32, prompt_stages=[])(*batch())
    assert torch.isfinite(total(terms))


def test_extra_parameters_are_the_published_ones() -> None:
    # ConvNeXt-T -> DeiT-T. The prompts' number does not depend on the teacher's image size.
    import timm

    teacher = StagedModel(timm.create_model("convnext_tiny", num_classes=10), image_size=64)
    student = StagedModel(timm.create_model("deit_tiny_patch16_224", num_classes=10))
    for variant in ("paper", "released"):
        method = PAT(student, teacher, variant=variant)
        parts = {part: sum(p.numel() for p in getattr(method, part).parameters()) / 1e6 for part in PARTS[1:]}
        assert {part: round(size, 2) for part, size in parts.items()} == {
            "regions": 7.08,
            "aligners": 0.74,
            "prompts": 6.65,
        }
        assert round(method.extra_parameters() / 1e6, 2) == 14.48


@pytest.mark.slow
def test_compiled_steps_are_the_same_from_step_to_step() -> None:
    plain: Distiller = make("vit", "cnn").train()
    awaken(plain)  # type: ignore[arg-type]
    torch._dynamo.reset()
    twin = copy.deepcopy(plain)
    compiled = torch.compile(twin, backend="aot_eager")
    for _ in range(3):
        images, labels = batch()
        expected, actual = plain(images, labels), compiled(images, labels)
        for name in expected:
            torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-5)
