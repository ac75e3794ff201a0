"""What the parts of a method contribute: its papers' ablations, and the questions that our own results raise.

    python recipes/ablations.py fbt cakd cskd pat --seeds 0 1

Every run is that of recipes/fashion_students.py for the pair that fits the method (or the one for which it gains), with
some of the method's hyper-parameters changed. Prints a Markdown table for each method; runs that are there are not run
again.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from crossdistill.quickstart import PAIRS, Pair
from fashion_students import VIT, fashion_recipe
from tables import markdown, run_missing, summaries

# Of CSKD, with both kinds of ViT.
_SPATIAL: dict[str, dict[str, Any]] = {
    "full": {},
    "spatial-0.1": {"spatial_weight": 0.1},
    "no-spatial": {"spatial_weight": 0.0},
    "no-fusion": {"fusion": False},
    "soft": {"kind": "soft", "logit_kind": "soft"},
    "soft-whole-labels": {"kind": "soft", "logit_kind": "soft", "label_weight": 1.0},
}

# Of PAT, for both directions and both kinds of ViT.
_PROMPTS: dict[str, dict[str, Any]] = {"full": {}, "prompts-everywhere": {"prompt_stages": [1, 2, 3, 4]}}

# Of each study: the method, the pair and, by a short name, what is changed.
ABLATIONS: dict[str, tuple[str, Pair, dict[str, dict[str, Any]]]] = {
    # The letters are the paper's; which of D and E is which is not stated.
    "fbt": (
        "fbt",
        PAIRS["cnn-vit"],
        {
            "full": {},
            "A-no-block-no-tail": {"tail_stages": 0, "attention_blocks": 0},
            "B-no-tail": {"tail_stages": 0},
            "C-no-teacher-to-assistant": {"teacher_assistant_weight": 0.0},
            "DE-no-assistant-to-student": {"assistant_student_weight": 0.0},
            "DE-no-teacher-to-student": {"teacher_student_weight": 0.0},
            "F-no-info-nce": {"feature_weight": 0.0},
            "G-no-ofa": {"logit_weight": 0.0},
            # What is left of the gain without an assistant: L(t, s) alone, and with the weight of two pairs.
            "no-assistant": {"teacher_assistant_weight": 0.0, "assistant_student_weight": 0.0},
            "no-assistant-doubled": {
                "teacher_assistant_weight": 0.0,
                "assistant_student_weight": 0.0,
                "teacher_student_weight": 2.0,
            },
            "mean-of-map": {"feature": "map"},
            "squared-error": {"feature_loss": "mse"},
            "per-position": {"smoothing": "per_position"},
        },
    ),
    "cakd": (
        "cakd",
        PAIRS["vit-cnn"],
        {
            "full": {},
            "no-views": {"view_probability": 0.0},
            "no-views-no-critic": {"view_probability": 0.0, "adversarial_weight": 0.0},
            "gl-alone": {
                "view_probability": 0.0,
                "adversarial_weight": 0.0,
                "attention_weight": 0.0,
                "gram_weight": 0.0,
            },
            "no-views-stage-2": {"view_probability": 0.0, "student_stage": 2},
            "no-views-stage-3": {"view_probability": 0.0, "student_stage": 3},
            "no-views-stage-4": {"view_probability": 0.0, "student_stage": 4},
            "no-views-weights-10": {"view_probability": 0.0, "gl_weight": 10.0, "attention_weight": 10.0},
            "views-everywhere": {"views": "everywhere"},
        },
    ),
    "cskd": ("cskd", PAIRS["cnn-vit"], _SPATIAL),
    "cskd-plain-vit": ("cskd", VIT, _SPATIAL),
    "pat": (
        "pat",
        PAIRS["cnn-vit"],
        {
            **_PROMPTS,
            "feedback-current": {"feedback": "current"},
            "feedback-none": {"feedback": "none"},
            "no-prompts": {"prompt_stages": []},
            "no-region-attention": {"region_attention": False},
            "no-logits": {"logit_weight": 0.0},
        },
    ),
    "pat-plain-vit": ("pat", VIT, _PROMPTS),
    "pat-cnn": ("pat", PAIRS["vit-cnn"], _PROMPTS),
    "fbt-cnn": ("fbt", PAIRS["vit-cnn"], {"full": {}, "two-tail-stages": {"tail_stages": 2}}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", choices=ABLATIONS)
    parser.add_argument("--settings", nargs="+", help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--output", type=Path, default=Path("runs/ablations"))
    arguments = parser.parse_args()
    known = {name for study in arguments.studies for name in ABLATIONS[study][2]}
    for name in arguments.settings or ():
        if name not in known:
            parser.error(f"--settings {name}: choose from {', '.join(sorted(known))}")
    for study in arguments.studies:
        method, pair, settings = ABLATIONS[study]
        output = arguments.output / study
        for seed in arguments.seeds:
            run_missing(partial(fashion_recipe, pair), "scratch", output / f"scratch-{seed}", seed)
            for name, changes in settings.items():
                if name in (arguments.settings or settings):
                    changed = partial(fashion_recipe, pair, hyperparameters=changes)
                    run_missing(changed, method, output / f"{name}-{seed}", seed)
        print(f"\n{study}", flush=True)
        print(markdown({name: summaries(output, name) for name in ("scratch", *settings)}), flush=True)


if __name__ == "__main__":
    main()
