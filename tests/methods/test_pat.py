"""PAT: its loss by hand, prompts inside every kind of teacher, feedback, ablations, the released formulas."""

import copy
import math
from collections import Counter

import pytest
import test_contract as contract
import torch
import torch.nn.functional as F
from torch import Tensor

from crossdistill.distiller import Distiller
from crossdistill.errors import UserError
from crossdistill.methods.pat.attention import RegionAttention, sinusoidal_code
from crossdistill.methods.pat.pat import PAT, hcl_loss
from crossdistill.methods.pat.projectors import MapToMap, RegionProjector, TokensToMap, TokensToTokens
from crossdistill.methods.pat.prompt import PromptBlock, SqueezeExcite
from crossdistill.methods.pat.standardizer import Standardizer
from crossdistill.staged import StagedModel
from tiny_models import SIDE, TINY


def make(teacher: str = "vit", student: str = "cnn", **hyperparameters: object) -> PAT:
    models = [StagedModel(TINY[kind](), name=kind, image_size=SIDE) for kind in (student, teacher)]
    return PAT(*models, **({"width": 32} | hyperparameters))  # type: ignore[arg-type]


def batch(size: int = 4) -> tuple[Tensor, Tensor]:
    return torch.rand(size, 3, SIDE, SIDE), torch.randint(3, (size,))


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def awaken(method: PAT, scale: float = 0.5) -> None:
    """Prompts that do something, and batch norms that have seen something."""
    with torch.no_grad():
        for prompt in method.prompts.values():
            prompt.scale.fill_(scale)


def divergence(target: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(target || logits), mean over images."""
    wanted, given = ((answer / temperature).log_softmax(dim=1) for answer in (target, logits))
    return temperature**2 * (wanted.exp() * (wanted - given)).sum(dim=1).mean()


# The loss


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
        ({"feedback": "batch_mean"}, 2),
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


# Prompts inside the teacher


@pytest.mark.parametrize("teacher", TINY)
@pytest.mark.parametrize("feedback", ["previous", "current", "batch_mean", "none"])
def test_prompted_teacher_is_the_clean_one_while_the_scale_is_zero(teacher: str, feedback: str) -> None:
    method = make(teacher, "cnn", feedback=feedback).double().train()
    images, labels = torch.rand(2, 3, SIDE, SIDE, dtype=torch.float64), torch.tensor([0, 2])
    for _ in range(2):
        terms = method(images, labels)
    assert terms["regularization"].item() == pytest.approx(0.0, abs=1e-12)
    clean = method.teach(images)
    aligned = method._align(method.student(images))
    features, logits = method._prompted_teacher(images, clean, method._feedback(aligned, clean))
    torch.testing.assert_close(logits, clean.logits, rtol=1e-12, atol=1e-12)
    for k, feature in features.items():
        expected = method.standardizers[str(k)](clean.features[k - 1])
        torch.testing.assert_close(feature, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("teacher", TINY)
def test_prompts_change_the_teacher_and_follow_the_order_of_the_images(teacher: str) -> None:
    method = make(teacher, "cnn").double().train()
    awaken(method)
    images = torch.rand(4, 3, SIDE, SIDE, dtype=torch.float64)
    method(images, torch.tensor([0, 1, 2, 0]))  # fills the memories
    clean = method.teach(images)
    told = method._feedback({}, clean)
    _, logits = method._prompted_teacher(images, clean, told)
    assert (logits - clean.logits).abs().max() > 1e-6
    order = torch.tensor([2, 0, 3, 1])
    told = {k: gap[order] for k, gap in told.items()}
    _, permuted = method._prompted_teacher(images[order], method.teach(images[order]), told)
    torch.testing.assert_close(permuted, logits[order], rtol=1e-9, atol=1e-9)


def test_local_change_of_the_feedback_stays_local_but_for_the_gates() -> None:
    block = PromptBlock(32, (16, 16), (32, 16, 16)).double().eval()
    block.scale.data.fill_(1.0)
    feature = torch.randn(1, 32, 16, 16, dtype=torch.float64)
    told = torch.zeros_like(feature)
    changed = told.clone()
    changed[:, :, 0, 0] = 3.0
    for module in block.modules():
        if isinstance(module, SqueezeExcite):
            torch.nn.init.ones_(module.squeeze.bias)  # so that no hidden unit happens to be off
    moved = (block(feature, changed) - block(feature, told)).abs().amax(dim=(0, 1))
    # The gates read the mean over the map, so other places move, and much less.
    assert moved[0, 0] > 10 * moved[5:, 5:].max() > 0
    for module in block.modules():
        if isinstance(module, SqueezeExcite):
            torch.nn.init.zeros_(module.excite.weight)
    moved = (block(feature, changed) - block(feature, told)).abs().amax(dim=(0, 1))
    # Two 5x5 convolutions one after the other reach four positions far.
    assert moved[4, 4] > 0
    assert moved[5:].max() == 0 and moved[:, 5:].max() == 0


def test_feedback_of_another_shape_is_aligned_position_by_position() -> None:
    aligner = PromptBlock(8, (8, 8), (16, 4, 4)).feedback_aligner
    assert isinstance(aligner, MapToMap)
    told = torch.zeros(2, 16, 4, 4)
    changed = told.clone()
    changed[:, :, 1, 2] = 1.0
    moved = (aligner.eval()(changed) - aligner(told)).abs().amax(dim=(0, 1)) > 0
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:4, 4:6] = True
    assert torch.equal(moved, expected)


def test_class_token_is_left_alone() -> None:
    method = make("vit", "cnn")
    awaken(method)
    feature, prefix = method.teacher.enter(torch.rand(2, 3, SIDE, SIDE))
    prompted, token = method._prompt(1, feature, prefix, torch.randn(2, 32, 4, 4), "NLC")
    assert torch.equal(token, prefix) and not torch.equal(prompted, feature)


# Feedback


def test_previous_feedback_is_the_gap_of_the_last_batch() -> None:
    method = make("vit", "cnn").train()
    awaken(method)
    images, labels = batch()
    clean = method.teach(images)
    assert all(gap.eq(0).all() for gap in method._feedback({}, clean).values())
    terms = method(images, labels)
    gaps = method._feedback({}, clean)
    assert sorted(gaps) == [1, 2, 3, 4]
    for k, gap in gaps.items():
        assert gap.shape == (4, 32, 4, 4) and not gap.requires_grad
        # The first level of the loss is the gap's mean square.
        assert hcl_loss(gap, torch.zeros_like(gap)).item() == pytest.approx(terms[f"stage{k}"].item(), rel=1e-5)
    told = method._feedback({}, method.teach(images[:3]))
    assert all(len(gap) == 3 and gap.eq(0).all() for gap in told.values())
    dealt = method._feedback({}, method.teach(images.repeat(2, 1, 1, 1)), cycle=True)
    assert all(torch.equal(dealt[k], gaps[k].repeat(2, 1, 1, 1)) for k in gaps)
    method.eval()(*batch())
    assert all(torch.equal(gaps[k], gap) for k, gap in method._feedback({}, clean).items())


def test_mean_feedback_serves_batches_of_any_size() -> None:
    one, all_of_it = make("vit", "cnn", feedback="batch_mean").train(), make("vit", "cnn").train()
    all_of_it.load_state_dict({k: v for k, v in one.state_dict().items() if "memories" not in k}, strict=False)
    all_of_it.teacher.load_state_dict(one.teacher.state_dict())
    images, labels = batch()
    for method in (one, all_of_it):
        method(images, labels)
    for k, gap in one._feedback({}, one.teach(images[:2])).items():
        expected = all_of_it.memories[str(k)].gap.mean(dim=0, keepdim=True).expand_as(gap)
        torch.testing.assert_close(gap, expected)


def test_current_feedback_is_the_gap_of_the_same_images_to_the_clean_teacher() -> None:
    method = make("cnn", "vit", feedback="current")
    assert not method.memories
    images, _ = batch()
    clean = method.teach(images)
    aligned = method._align(method.student(images))
    for k, gap in method._feedback(aligned, clean).items():
        expected = aligned[k] - method.standardizers[str(k)](clean.features[k - 1])
        torch.testing.assert_close(gap, expected.detach())
        assert not gap.requires_grad


@pytest.mark.parametrize("feedback", ["previous", "batch_mean"])
def test_training_goes_on_from_a_state_dict_as_if_it_had_not_stopped(feedback: str) -> None:
    method = make("swin", "cnn", feedback=feedback).train()
    fresh = copy.deepcopy(method)
    awaken(method)
    data = [batch() for _ in range(3)]

    def step(method: PAT, images: Tensor, labels: Tensor) -> float:
        loss = total(method(images, labels))
        method.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in method.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.01 * parameter.grad)
        return loss.item()

    for images, labels in data[:2]:
        step(method, images, labels)
    buffers = dict(method.named_buffers())
    assert method.rank_local and all(name in buffers for name in method.rank_local)
    fresh.load_state_dict(method.state_dict())
    assert step(fresh, *data[2]) == step(method, *data[2])
    before, after = method.state_dict(), fresh.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


# Which part receives gradient from which term

PARTS = ("student", "regions", "aligners", "prompts")
FLOW = {
    "labels": {"student"},
    "logits": {"student"},
    "stage": {"student", "regions", "aligners", "prompts"},
    "regularization": {"prompts"},
}


@pytest.mark.parametrize(("teacher", "student"), [("vit", "cnn"), ("cnn", "vit"), ("swin", "mlp")])
@pytest.mark.parametrize("feedback", ["previous", "current", "batch_mean", "none"])
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


# Ablations, sizes, refusals


def test_without_prompts_the_teacher_is_matched_as_it_is() -> None:
    method = make("vit", "cnn", prompt_stages=[]).train()
    method.teacher.enter = None  # type: ignore[method-assign, assignment]
    images, labels = batch()
    terms = method(images, labels)
    assert "regularization" not in terms and not method.prompts and not method.memories
    assert method.validation_metrics(images, labels) == {}


def test_prompts_at_some_stages_leave_those_before_them_clean() -> None:
    torch.manual_seed(0)
    method = make("cnn", "vit", prompt_stages=[3, 4], feedback="current").eval()
    awaken(method)
    method.teacher.enter = None  # type: ignore[method-assign, assignment]
    images, _ = batch()
    clean = method.teach(images)
    features, logits = method._prompted_teacher(
        images, clean, method._feedback(method._align(method.student(images)), clean)
    )
    assert all(torch.equal(features[k], method.standardizers[str(k)](clean.features[k - 1])) for k in (1, 2))
    assert not torch.allclose(features[3], method.standardizers["3"](clean.features[2]))
    assert not torch.allclose(logits, clean.logits)


def test_without_region_attention_stages_do_not_see_each_other() -> None:
    for attention in (True, False):
        method = make("vit", "cnn", region_attention=attention).eval()
        features = method.student(batch()[0]).features
        before = method.regions(features)
        after = method.regions([features[0] + 1, *features[1:]])
        assert not torch.allclose(before[0], after[0])
        assert torch.equal(before[3], after[3]) != attention


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
        metrics = method.validation_metrics(*batch(6))
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
    metrics = method.validation_metrics(images, labels)
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


# Parts


def test_region_projector_has_the_published_patches() -> None:
    for side, patch in ((56, 14), (28, 7), (14, 4), (7, 2), (3, 1)):
        projector = RegionProjector(8, (side, side), side=4, width=16)
        assert projector.regions.kernel_size == (patch, patch)
        assert projector(torch.rand(2, 8, side, side)).shape == (2, 16, 16)


def test_aligners_give_the_shape_of_a_stage_for_one_image_too() -> None:
    tokens = torch.rand(1, 16, 32)
    for size in ((14, 14), (7, 7), (3, 5), (1, 1)):
        assert TokensToMap(32, 8, size).train()(tokens).shape == (1, 8, *size)
        assert TokensToTokens(16, 32, 8, size).train()(tokens).shape == (1, 8, *size)


def test_region_attention_is_the_equation() -> None:
    student = StagedModel(TINY["cnn"](), name="cnn", image_size=SIDE)
    attention = RegionAttention(student.stages, side=4, width=32, heads=4).eval()
    features = student(torch.rand(2, 3, SIDE, SIDE)).features
    tokens = torch.cat([project(f) for project, f in zip(attention.projectors, features, strict=True)], dim=1)
    tokens = attention.norm(tokens)
    code = sinusoidal_code(64, 32, tokens)
    query = attention.to_query(tokens) + code
    key = F.linear(tokens, attention.to_key_value.weight[:32], attention.to_key_value.bias[:32]) + code
    value = F.linear(tokens, attention.to_key_value.weight[32:], attention.to_key_value.bias[32:])
    heads = []
    for h in range(4):
        channels = slice(8 * h, 8 * h + 8)
        weights = (query[..., channels] @ key[..., channels].mT / math.sqrt(8)).softmax(dim=2)
        heads.append(weights @ value[..., channels])
    expected = torch.cat(heads, dim=2).split(16, dim=1)
    for actual, stage in zip(attention(features), expected, strict=True):
        torch.testing.assert_close(actual, stage)


def test_sinusoidal_code_by_hand() -> None:
    code = sinusoidal_code(3, 4, torch.zeros(1))
    expected = [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)]
    torch.testing.assert_close(code[2], torch.tensor(expected))


def test_standardizer_has_the_statistics_of_all_it_saw() -> None:
    standardizer = Standardizer(3)
    seen = [torch.randn(4, 3, 5, 5) * 3 + shift for shift in (0.0, 2.0, -7.0)]
    for feature in seen:
        standardizer.measure(feature)
    result = standardizer(torch.cat(seen))
    torch.testing.assert_close(result.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.std(dim=(0, 2, 3), correction=0), torch.ones(3))


def test_standardizer_does_not_blow_up_a_dead_channel() -> None:
    standardizer = Standardizer(3)
    feature = torch.randn(8, 3, 4, 4)
    feature[:, 1] = 0.0
    standardizer.measure(feature)
    feature[:, 1] = 0.01
    assert standardizer(feature)[:, 1].abs().max() < 1


# The released variant


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


def test_released_gates_are_not_applied_so_that_a_prompt_is_one_number_per_channel() -> None:
    block = PromptBlock(16, (6, 6), (16, 6, 6), gate_only=True)
    block.scale.data.fill_(1.0)
    feature, told = torch.randn(2, 16, 6, 6), torch.randn(2, 16, 6, 6)
    added = block(feature, told) - feature
    torch.testing.assert_close(added, added.mean(dim=(2, 3), keepdim=True).expand_as(added), atol=1e-5, rtol=0)
    assert added.abs().max() > 0


@pytest.mark.parametrize("teacher", TINY)
def test_released_prompts_scramble_tokens_and_leave_maps(teacher: str) -> None:
    method = make(teacher, "cnn", variant="released", feedback="none")
    feature, prefix = method.teacher.enter(torch.rand(2, 3, SIDE, SIDE))
    stage = method.teacher.stages[0]
    after, after_prefix = method._prompt(1, feature, prefix, None, stage.layout)
    if stage.layout == "NCHW":
        assert torch.equal(after, feature)
        return
    # All tokens in a row, the last ones (as many as there are prefix tokens) set aside.
    tokens = feature.flatten(2).transpose(1, 2)
    tokens = tokens if prefix is None else torch.cat([prefix, tokens], dim=1)
    places = feature.shape[2] * feature.shape[3]
    grid = tokens[:, :places].transpose(1, 2).contiguous()
    expected = torch.cat([grid.view(2, places, -1), tokens[:, places:]], dim=1)
    actual = after.flatten(2).transpose(1, 2)
    actual = actual if after_prefix is None else torch.cat([after_prefix, actual], dim=1)
    assert torch.equal(actual, expected) and not torch.allclose(actual, tokens)


def test_released_positional_code_counts_images() -> None:
    image = torch.rand(1, 3, SIDE, SIDE).expand(3, -1, -1, -1)
    for variant, same in (("paper", True), ("released", False)):
        method = make("vit", "cnn", variant=variant).eval()
        regions = torch.cat(method.regions(method.student(image).features), dim=1)
        assert torch.allclose(regions[0], regions[2], atol=1e-5) == same


def test_released_features_are_raw_and_the_class_token_is_among_them() -> None:
    method = make("vit", "cnn", variant="released", prompt_stages=[])
    assert method.regularization_weight == 1.0 and not method.standardizers
    assert make("vit", "cnn").regularization_weight == 10.0
    clean = method.teach(batch(2)[0])
    features, _ = method._prompted_teacher(batch(2)[0], clean, {})
    assert torch.equal(features[4][:, :, 0, 0], clean.prefix[3][:, 0])
    assert torch.equal(features[4][:, :, 0, 1], clean.features[3][:, :, 0, 0])


# What every method promises


@pytest.mark.parametrize(("teacher", "student"), contract.PAIRS)
class TestContractOnEveryPair:
    def test_terms_and_gradients(self, teacher: str, student: str) -> None:
        contract.test_terms_are_finite_scalars_and_reach_every_trainable_parameter("pat", teacher, student)

    def test_teacher(self, teacher: str, student: str) -> None:
        contract.test_teacher_stays_in_eval_mode_and_unchanged("pat", teacher, student)

    def test_state_dict(self, teacher: str, student: str) -> None:
        contract.test_same_seed_same_loss_and_state_dict_round_trip("pat", teacher, student)


class TestContract:
    @pytest.mark.parametrize("mode", ["one image", "soft labels"])
    def test_batches(self, mode: str) -> None:
        contract.test_batch_of_one_and_soft_labels("pat", mode)

    def test_autocast(self) -> None:
        contract.test_bf16_autocast_is_near_float32("pat")

    @pytest.mark.parametrize(("teacher", "student"), [("vit", "cnn"), ("cnn", "vit")])
    def test_compiled(self, teacher: str, student: str) -> None:
        contract.test_compiled_step_gives_the_same_loss("pat", teacher, student)

    def test_extra_parameters(self) -> None:
        contract.test_extra_parameters_are_what_the_student_does_not_own("pat")


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
