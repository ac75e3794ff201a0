"""What every method promises: one table, and the contract of `crossdistill.testing` for each of its lines."""

import functools
from typing import Any

import pytest

from crossdistill.errors import UserError
from crossdistill.methods import METHODS, build_distiller, load_method
from crossdistill.options import MethodOptions
from crossdistill.testing import PAIRS, TINY, MethodContract, staged
from crossdistill.testing.tiny_models import tiny_cnn, tiny_hybrid, tiny_vit

NO_ATTENTION = "has no attention"
ONE_POSITION = "has one only"
# Their last map still has 4x4 positions at 32 pixels.
WIDE = {
    "wide_cnn": functools.partial(tiny_cnn, output_stride=8),
    "wide_hybrid": functools.partial(tiny_hybrid, output_stride=8),
}

# What is special to a method, as attributes of `MethodContract`.
CONTRACTS: dict[str, dict[str, Any]] = {
    "fitnet": {},
    "at": {},
    "nst": {},
    "vid": {},
    "reviewkd": {},
    "ofd": {},
    "afd": {},
    # Boundaries and labels together: alone, the first steps leave the head without a loss.
    "ab": {"hyperparameters": {"initialization": 1.0}},
    "scalekd": {
        # Teachers whose last map has more than one position.
        "models": TINY | WIDE,
        "pairs": (
            *("vit->cnn", "wide_cnn->vit", "swin->distilled"),
            *("vit->mlp", "mlp->cnn", "vit->hybrid", "wide_hybrid->swin"),
        ),
        "refuses": {"cnn->vit": ONE_POSITION, "cnn->swin": ONE_POSITION, "hybrid->cnn": ONE_POSITION},
        # At first the projected positions hardly differ, and the frequency view sees the difference alone.
        "bf16_tolerance": 0.2,
    },
    "rsd": {},
    "vkd": {},
    "foundation": {},
    "pkd": {},
    "scratch": {},
    "kd": {},
    # Its term begins at 0.
    "dkd": {"hyperparameters": {"warmup": 0.0}},
    "dist": {},
    "deit": {"pairs": ("cnn->distilled", *PAIRS)},
    "rkd": {},
    # Fewer negatives than images, so that they are drawn; as many as images, and none is.
    "crd": {"hyperparameters": {"num_negatives": 16}, "without_draws": {"num_negatives": 60}},
    # The default weights are for batches of 64 to 128: of four images the gradient is so large that its rounding shows.
    "sp": {"hyperparameters": {"similarity_weight": 100.0}},
    "cc": {},
    "pkt": {"hyperparameters": {"neighbour_weight": 100.0}},
    "minilm": {
        "models": TINY | {"four_heads": functools.partial(tiny_vit, embed_dim=48, num_heads=4)},
        # As many heads and class tokens; other class tokens; other heads.
        "pairs": ("vit->vit", "vit->distilled", "four_heads->vit", "vit->four_heads"),
        "refuses": {
            "vit->cnn": NO_ATTENTION,
            "cnn->vit": NO_ATTENTION,
            "mlp->cnn": NO_ATTENTION,
            "vit->mlp": NO_ATTENTION,
            "hybrid->vit": "cannot take queries, keys and values",
            "swin->distilled": "tokens of one grid",
        },
    },
    "ofa": {},
    "cakd": {
        "pairs": ("vit->cnn", "swin->cnn", "vit->swin", "distilled->cnn", "vit->mlp", "swin->distilled", "vit->hybrid"),
        "refuses": {
            "cnn->vit": NO_ATTENTION,
            "mlp->cnn": NO_ATTENTION,
            "cnn->swin": NO_ATTENTION,
            "cnn->hybrid": NO_ATTENTION,
            "hybrid->cnn": "cannot take queries, keys and values",
        },
        "without_draws": {"replacement_probability": 0.0, "view_probability": 0.0},
    },
    "fbt": {
        # Convolution with attention or an MLP in both directions, attention with an MLP in both, hybrids, homogeneous.
        "pairs": (
            *("vit->cnn", "cnn->vit", "hybrid->cnn"),
            *PAIRS,
            *("swin->cnn", "cnn->mlp", "cnn->distilled", "mlp->vit", "cnn->cnn", "vit->vit", "mlp->mlp"),
        ),
    },
    # Feedback is of the last batch: the second step is the first that is told something.
    "pat": {"steps_until_settled": 2},
    "cskd": {
        "models": TINY | WIDE,
        "pairs": (
            *("wide_cnn->distilled", "wide_cnn->vit", "mlp->wide_cnn"),
            *("wide_cnn->mlp", "wide_cnn->swin", "swin->distilled", "wide_cnn->wide_hybrid"),
        ),
        "refuses": {
            "vit->cnn": "answers from a class token",
            "vit->mlp": "answers from a class token",
            "cnn->vit": ONE_POSITION,
            "mlp->cnn": ONE_POSITION,
            "cnn->swin": ONE_POSITION,
            "hybrid->cnn": ONE_POSITION,
            "cnn->hybrid": ONE_POSITION,
        },
    },
}


# Compiling takes ten seconds a method and more: these stand for a formula, a model run in segments, a critic and a
# memory; the others are compiled in the slow tests.
COMPILED = {"kd", "fbt", "cakd", "crd"}


def contract(name: str) -> type[MethodContract]:
    method = load_method(name)
    promises = {"method": method, "__module__": __name__, "always_compiled": name in COMPILED} | CONTRACTS[name]
    return type(f"Test{method.__name__}", (MethodContract,), promises)


globals().update({made.__name__: made for made in map(contract, CONTRACTS)})


def test_every_method_has_its_line() -> None:
    assert CONTRACTS.keys() == METHODS.keys()


@pytest.mark.parametrize(
    ("method", "hyperparameters"),
    [
        ("kd", {"temperature": -1.0}),
        ("dkd", {"temperature": 0.0}),
        ("dkd", {"warmup": 1.5}),
        ("dist", {"temperature": 0.0}),
        ("deit", {"temperature": 0.0}),
        ("crd", {"temperature": 0.0}),
        ("crd", {"momentum": 1.0}),
        ("cc", {"order": 0}),
        ("ofa", {"temperature": 0.0}),
        ("cakd", {"critic_every": 0}),
        ("cakd", {"replacement_probability": 3.0}),
        ("cakd", {"dropout": 2.0}),
        ("cakd", {"view_masked": 1.5}),
        ("fbt", {"attention_blocks": -1}),
        ("fbt", {"temperature": 0.0}),
        ("pat", {"heads": 0}),
        ("pat", {"temperature": 0.0}),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(method: str, hyperparameters: dict[str, float]) -> None:
    student, teacher = (staged(kind, TINY[kind]) for kind in ("cnn", "vit"))
    with pytest.raises(UserError, match=f"{method}: {next(iter(hyperparameters))}=.*; give a number"):
        build_distiller(MethodOptions(method, hyperparameters), student, teacher, train_size=60)
