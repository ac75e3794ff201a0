"""CRD's loss image by image, its banks over two steps against the authors' code, and what it draws."""

import math

import pytest
import torch
from torch import Tensor
from waves import wave

from crossdistill.data import Batch
from crossdistill.errors import UserError
from crossdistill.functional import crd_loss
from crossdistill.methods.crd import CRD, log_mean_similarity
from crossdistill.staged import Outputs
from crossdistill.testing import TINY, draw_batch, staged, total


def make(train_size: int | None = 8, **hyperparameters: object) -> CRD:
    torch.manual_seed(0)
    student, teacher = staged("vit", TINY["vit"]), staged("cnn", TINY["cnn"])
    return CRD(student, teacher, train_size=train_size, **hyperparameters).train()  # type: ignore[arg-type]


def test_image_by_image() -> None:
    positives, negatives = wave(1, 3, 0.1)[0], wave(3, 4, 0.2)
    shares = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    normalizer, draws = 1.7, 6
    expected = 0.0
    for i in range(3):
        e = math.exp(positives[i].item())
        expected -= math.log(e / (e + draws * normalizer))
        for k in range(4):
            e = math.exp(negatives[i, k].item())
            expected -= draws * shares[i, k].item() * math.log(1 - e / (e + draws * normalizer))
    actual = crd_loss(positives, negatives, shares, torch.tensor(normalizer, dtype=torch.float64).log(), draws)
    assert actual.item() == pytest.approx(expected / 3, rel=1e-9)
    # Z, by its definition: the mean of e over the positives and the draws.
    mean = sum(math.exp(positives[i].item()) for i in range(3))
    mean += sum(draws * shares[i, k].item() * math.exp(negatives[i, k].item()) for i in range(3) for k in range(4))
    actual = log_mean_similarity(positives, negatives, shares, draws)
    assert math.exp(actual.item()) == pytest.approx(mean / (3 * (draws + 1)), rel=1e-9)


def test_gradient_matches_finite_differences() -> None:
    shares = torch.full((1, 1), 0.25, dtype=torch.float64)

    def loss(positives: Tensor, negatives: Tensor) -> Tensor:
        return crd_loss(positives, negatives, shares, shares.new_tensor(0.3), 4)

    inputs = wave(1, 3, 0.1)[0].requires_grad_(), wave(3, 4, 0.2).requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs)


def test_two_steps_agree_with_the_authors() -> None:
    # github.com/HobbitLong/RepDistiller at b84f547, crd/criterion.py and crd/memory.py: banks of 8 images and 3 values,
    # 4 negatives of each image, given; the second step has the banks that the first one left.
    method = make(width=3, num_negatives=4).double()
    method.student_bank.copy_(wave(8, 3, 0.1))
    method.teacher_bank.copy_(wave(8, 3, 0.2))
    indices = torch.tensor([5, 0, 2])
    chosen = torch.tensor([[1, 2, 3, 1], [7, 6, 5, 4], [0, 1, 3, 7]])
    shares = torch.full((1, 1), 0.25, dtype=torch.float64)
    losses = []
    for phase in (0.3, 0.6):
        student, teacher = wave(3, 3, phase), wave(3, 3, phase + 0.1)
        losses.append(method.contrast(0, student, method.teacher_bank, indices, chosen, shares).item())
        losses.append(method.contrast(1, teacher, method.student_bank, indices, chosen, shares).item())
        method.remember(student, teacher, indices, None)
    # The authors hold the temperature in float32.
    assert losses == pytest.approx([4.7946274068893215, 5.69935325158563, 4.66506368544911, 5.69723623692435], rel=1e-6)
    # Theirs are N Z.
    assert (8 * method.log_normalizers.exp()).tolist() == pytest.approx([42342385.45894, 56249686.33755], rel=1e-6)
    expected = [0.524416179882658, 0.8490420513148718, 0.06415033418708263]
    assert method.student_bank[5].tolist() == pytest.approx(expected, rel=1e-9)
    expected = [0.4729012513379663, 0.15780646579433072, -0.8668688054351064]
    assert method.teacher_bank[2].tolist() == pytest.approx(expected, rel=1e-9)
    assert torch.equal(method.student_bank[[1, 3, 4, 6, 7]], wave(8, 3, 0.1)[[1, 3, 4, 6, 7]])


def test_images_of_other_classes_are_drawn() -> None:
    method = make(train_size=6, num_negatives=5)
    method.classes.copy_(torch.tensor([0, 0, 1, 1, 2, -1]))
    indices, labels = torch.tensor([0, 3]), torch.tensor([0, 1])
    drawn = [method.draw(indices, labels)[0] for _ in range(40)]
    assert all(chosen is not None and chosen.shape == (2, 5) for chosen in drawn)
    chosen = torch.cat([part for part in drawn if part is not None], dim=1)
    # The class of the last image is not known yet.
    assert set(chosen[0].tolist()) == {2, 3, 4, 5}
    assert set(chosen[1].tolist()) == {0, 1, 4, 5}
    method.negatives = "any"
    of_all = torch.cat([method.draw(indices, labels)[0] for _ in range(40)], dim=1)  # type: ignore[misc]
    assert set(of_all[0].tolist()) == {1, 2, 3, 4, 5}
    # Without labels any other image; of one class alone, too.
    method.negatives = "other_classes"
    assert 1 in torch.cat([method.draw(indices, None)[0] for _ in range(40)], dim=1)[0]  # type: ignore[misc]
    method.classes.zero_()
    of_one = torch.cat([method.draw(indices, torch.zeros(2))[0] for _ in range(40)], dim=1)  # type: ignore[misc]
    assert set(of_one[0].tolist()) == {1, 2, 3, 4, 5}


def test_all_images_together_are_what_draws_are_on_average() -> None:
    method = make(train_size=6, num_negatives=6).eval()
    method.log_normalizers.fill_(0.5)
    method.classes.copy_(torch.tensor([0, 0, 1, 1, 2, 2]))
    indices, labels, student = torch.tensor([0, 3]), torch.tensor([0, 1]), torch.randn(2, 128)
    chosen, shares = method.draw(indices, labels)
    assert chosen is None
    torch.testing.assert_close(shares, torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1]]) / 4)
    method.num_negatives = 5
    whole = method.contrast(0, student, method.teacher_bank, indices, None, shares).item()
    drawn = []
    for _ in range(2000):
        chosen, one = method.draw(indices, labels)
        assert chosen is not None
        drawn.append(method.contrast(0, student, method.teacher_bank, indices, chosen, one))
    losses = torch.stack(drawn)
    error = losses.std().item() / math.sqrt(len(losses))
    assert losses.std() > 0.01
    assert losses.mean().item() == pytest.approx(whole, abs=4 * error)


def test_a_step_changes_the_banks_where_its_images_are() -> None:
    method = make(train_size=12, num_negatives=4)
    before = {name: buffer.clone() for name, buffer in method.named_buffers() if "bank" in name or name == "classes"}
    images, labels = draw_batch(3)
    indices = torch.tensor([7, 2, 9])
    terms = method(images, labels, indices=indices)
    total(terms).backward()
    assert set(terms) == {"labels", "student", "teacher"}
    for name, old in before.items():
        changed = (method.get_buffer(name) != old).reshape(12, -1).any(dim=1).nonzero().flatten().tolist()
        assert changed == [2, 7, 9], name
    assert torch.equal(method.classes[indices], labels)
    torch.testing.assert_close(method.student_bank[indices].norm(dim=1), torch.ones(3))
    normalizers = method.log_normalizers.clone()
    assert normalizers.isfinite().all()
    method(images, labels, indices=indices)
    assert torch.equal(method.log_normalizers, normalizers)
    # What is evaluated is not remembered.
    remembered = method.student_bank.clone()
    method.eval()(images, labels, indices=indices)
    assert torch.equal(method.student_bank, remembered)


def test_what_is_missing_is_asked_for() -> None:
    with pytest.raises(UserError, match="train_size"):
        make(train_size=None)
    with pytest.raises(UserError, match="indices="):
        make()(*draw_batch())


def test_a_compiled_step_goes_back_through_what_the_banks_were() -> None:
    images, labels = draw_batch()
    indices, gradients = torch.arange(4), []
    for compiled in (False, True):
        method = make(num_negatives=8)
        # The partitioner of the default compiler, which chooses what is computed again on the way back.
        terms = torch.compile(method.terms, backend="aot_eager_decomp_partition") if compiled else method.terms
        torch.manual_seed(1)
        student = torch.randn(4, method.student.pooled_size, requires_grad=True)
        teacher = torch.randn(4, method.teacher.pooled_size)
        for _ in range(2):
            total(terms(Outputs(pooled=student), Outputs(pooled=teacher), Batch(images, labels, indices))).backward()
        gradients.append(student.grad)
    torch.testing.assert_close(gradients[1], gradients[0])
