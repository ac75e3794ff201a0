import pytest
import torch

from crossdistill.data import Mixer


def make_batch(count: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, 16, 16, generator=generator), torch.arange(count) % 5


def test_nothing_on_leaves_the_batch_alone():
    images, labels = make_batch()
    mixed, soft = Mixer(5, 0.0, 0.0, 0.0, 0)(images, labels, step=3)
    assert mixed is images and soft is labels


def test_smoothing_alone_matches_torch():
    images, labels = make_batch()
    mixed, soft = Mixer(5, 0.1, 0.0, 0.0, 0)(images, labels, step=3)
    assert mixed is images
    logits = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, soft), expected)


def test_mixup_mixes_pixels_and_labels_in_the_same_share():
    images, labels = make_batch()
    mixed, soft = Mixer(5, 0.0, 0.8, 0.0, 7)(images, labels, step=3)
    share = soft[0, labels[0]]
    assert 0 < share < 1
    torch.testing.assert_close(mixed[0], share * images[0] + (1 - share) * images[1])
    torch.testing.assert_close(mixed[1], share * images[1] + (1 - share) * images[0])
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(12))


def test_cutmix_share_is_that_of_the_pixels():
    images, labels = make_batch()
    mixer = Mixer(5, 0.0, 0.0, 1.0, 7)
    before = images.clone()
    for step in range(30):
        mixed, soft = mixer(images, labels, step=step)
        own = (mixed == images).all(dim=1)
        assert ((mixed == images[[1, 0]].repeat(6, 1, 1, 1)) | (mixed == images))[:2].all()
        torch.testing.assert_close(soft[0, labels[0]], own[0].float().mean())
    assert torch.equal(images, before)


def test_outcome_does_not_depend_on_how_the_batch_is_split():
    images, labels = make_batch()
    mixer = Mixer(5, 0.1, 0.2, 1.0, 7)
    for step in range(20):
        whole = mixer(images, labels, step=step)
        parts = [mixer(images[i : i + 4], labels[i : i + 4], step=step) for i in (0, 4, 8)]
        assert torch.equal(whole[0], torch.cat([part[0] for part in parts]))
        assert torch.equal(whole[1], torch.cat([part[1] for part in parts]))


def test_both_kinds_are_drawn_and_steps_differ():
    images, labels = make_batch()
    mixer = Mixer(5, 0.0, 0.2, 1.0, 7)
    cut = [
        bool(((m := mixer(images, labels, step=step)[0]) == images).any() and (m != images).any()) for step in range(40)
    ]
    assert 8 < sum(cut) < 32
    assert not torch.equal(mixer(images, labels, step=0)[1], mixer(images, labels, step=1)[1])


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0)])
def test_an_odd_batch_is_refused(mixup: float, cutmix: float):
    with pytest.raises(AssertionError):
        Mixer(5, 0.0, mixup, cutmix, 0)(*make_batch(3), step=0)
