"""Which of timm's models `StagedModel` can take apart: the smallest of every family, written to docs/models.md.

    python benchmarks/model_families.py                  # all families: about twenty minutes on one core
    python benchmarks/model_families.py resnet swin_transformer --output families.md

Weights are random, so nothing is downloaded. A family is a module of `timm.models`.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import timm
import torch

from crossdistill.errors import UserError
from crossdistill.staged import StagedModel

LARGEST = 300_000_000  # parameters; a family with nothing smaller is left out and listed

INTRODUCTION = """\
# Models

Nearly every timm classifier can be a teacher or a student; so can any other `nn.Module` that maps (B, 3, H, W) images
to (B, K) logits and whose stage ends are named. `StagedModel` takes it apart into a stem, stages and a head, without
code for any one family: it runs a copy once in float64, and reads the stages from timm's `feature_info` and the rest
from what the modules were given and returned.

## Image sizes

A model runs at one size, its own unless another is asked for; images of other sizes are resized to it. For validation
they are cut to the model's aspect ratio around the centre and resized bilinearly. timm's published accuracies are of a
smaller centre, and often bicubic: a pretrained teacher's `top1` can differ a little from them. Convolutional
networks take any size from 32 pixels up, square or not. Transformers take the size that they were built for:
`--student.kwargs.img_size=32`, usually with a smaller `patch_size`. For images of 32 to 64 pixels a convolutional
network needs a gentler stem, or its last stages have one position left: `--stem_stride 2` (or 1) lowers the stride at
the end of the first stage, from 4 in most networks, and all later grids grow with it. Networks that cut patches which
do not overlap (ConvNeXt, Swin, ViT) are built with smaller ones instead: `--student.kwargs.patch_size=2`.

## Models outside timm

Name the modules that end the stages, with `--student_stages layer2,layer3` or in Python:

```python
from torchvision.models import resnet18
from crossdistill import StagedModel

model = StagedModel(resnet18(), stage_ends=["layer1", "layer2", "layer3", "layer4"])
outputs = model(images)  # images (B, 3, H, W) in [0, 1]
[feature.shape for feature in outputs.features]  # (B, C_k, H_k, W_k) of each stage
tail = model.run_from(3, outputs.features[2])  # the last stage and the head, on any map of that shape
```

Tokens must lie row by row, behind any class and register tokens. timm's own maps show whether they do; for other
models it is taken for granted.

## The families of timm

The smallest model of every family (module) of timm at its own image size, as `benchmarks/model_families.py` found it.

- **stages**: the module that ends each stage, and the map there, channels@height x width.
- **layout**: the model's own layout at the stage ends; `NLC+2` are tokens behind two class or register tokens.
- **mixing**: what mixes positions in each stage, first to last: A attention, C convolution or pooling with
  overlapping windows, M a linear layer over positions, - none of these. Read from the operations that a run performs.
- **segments**: whether the model can be run stage by stage, which some methods need. "exact" was checked in float64
  against the model's own forward, as for every model when it is built. Models that cannot are refused by the methods
  that need it; their features and logits are there all the same.
- **dense logits**: the head applied at every position, which CSKD needs. "exact": the mean over positions equals the
  head's answer on a random image, to within 1e-5 of it. A number is the difference, relative to the largest logit:
  heads with a hidden layer have no exact form. "no mean pooling": the head reads something else than the mean over
  positions, mostly a class token, so that its answer is no measure.
"""


@dataclass
class Row:
    """One line of the table."""

    family: str
    model: str
    stages: str = ""
    layout: str = ""
    mixing: str = ""
    segments: str = ""
    dense: str = ""


def smallest_model(family: str) -> tuple[str, int]:
    """Name and number of parameters of the family's smallest model."""
    sizes: list[tuple[int, str]] = []
    for name in timm.list_models(module=family):
        with torch.device("meta"):
            model = timm.create_model(name)
        sizes.append((sum(p.numel() for p in model.parameters()), name))
    parameters, name = min(sizes)
    return name, parameters


def describe(family: str, name: str) -> Row:
    """Build a model and say what `StagedModel` makes of it."""
    torch.manual_seed(0)
    try:
        model = StagedModel(timm.create_model(name)).eval()
    except UserError as error:
        return Row(family, name, segments=f"no stage features: {str(error).removeprefix(name).strip()}")
    stages = model.stages
    layouts = dict.fromkeys(s.layout + (f"+{s.prefix_tokens}" if s.prefix_tokens else "") for s in stages)
    return Row(
        family,
        name,
        stages="<br>".join(f"`{s.path}` {s.channels}@{s.size[0]}x{s.size[1]}" for s in stages),
        layout=", ".join(layouts),
        mixing=" ".join("".join(kind[0].upper() for kind in s.mixing) or "-" for s in stages),
        segments=model.segments_refusal or "exact",
        dense=dense_logits(model),
    )


@torch.no_grad()
def dense_logits(model: StagedModel) -> str:
    """How far the mean of the dense logits is from the head's answer."""
    images = torch.rand(1, 3, *model.image_size, generator=torch.Generator().manual_seed(0))
    outputs = model(images)
    try:
        dense = model.dense_logits(outputs.final)
    except UserError as error:
        return str(error).partition(": ")[2]
    own = outputs.head_logits["class"]
    if not own.any():
        return "head starts at zero"
    if not model.pools_mean:
        return "no mean pooling"
    gap = float((dense.mean((2, 3)) - own).abs().max() / own.abs().max())
    return "exact" if gap < 1e-5 else f"{gap:.1e}"


def write_page(rows: list[Row], left_out: list[str], path: Path) -> None:
    """Write docs/models.md."""
    staged = [row for row in rows if row.stages]
    exact = [row for row in staged if row.segments == "exact"]
    lines = [
        INTRODUCTION,
        f"Of {len(rows)} families, {len(staged)} give stage features and {len(exact)} run in exact segments.",
        *([f"Left out, because their smallest model is too large: {', '.join(left_out)}."] if left_out else []),
        "",
        "| family | model | stages | layout | mixing | segments | dense logits |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {r.family} | {r.model} | {r.stages} | {r.layout} | {r.mixing} | {r.segments} | {r.dense} |"
            for r in rows
        ),
        "",
        f"Written with timm {timm.__version__} and torch {torch.__version__}; other versions may differ.",
    ]
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="modules of timm.models; default: all")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "models.md")
    options = parser.parse_args()
    rows, left_out = [], []
    for family in options.families or timm.list_modules():
        start = time.perf_counter()
        name, parameters = smallest_model(family)
        if parameters > LARGEST:
            left_out.append(f"{name} ({parameters / 1e6:.0f} M)")
            continue
        rows.append(describe(family, name))
        print(f"{family}: {name}: {rows[-1].segments} ({time.perf_counter() - start:.0f} s)", file=sys.stderr)
    write_page(rows, left_out, options.output)


if __name__ == "__main__":
    main()
