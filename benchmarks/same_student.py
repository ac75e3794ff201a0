"""Whether two commits train the same student, bit for bit: what a change of structure must leave as it is.

    python benchmarks/same_student.py BEFORE [AFTER]

BEFORE and AFTER are commits; AFTER is the working tree by default. Both run the same short commands, each in a process
of its own with one thread, in float32: every method with what a recipe may switch on (moving average, mixing, label
smoothing, clipping, accumulation, a run that goes on from a checkpoint). The students and the metrics, less what
depends on the clock, must be equal.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

REPOSITORY = Path(__file__).resolve().parents[1]
VIT = ["img_size=32", "patch_size=8", "embed_dim=96", "depth=6", "num_heads=3"]
ASSETS = REPOSITORY / "src" / "crossdistill" / "assets"
CNN = ["--student", "test_resnet"]
DISTILLED_VIT = ["--student", "deit_tiny_distilled_patch16_224", *(f"--student.kwargs.{part}" for part in VIT)]
FROM_VIT = ["--teacher_weights", str(ASSETS / "fashion_vit.safetensors")]
FROM_CNN = ["--teacher_weights", str(ASSETS / "fashion_cnn.safetensors")]
RECIPE = ["--epochs", "1", "--batch_size", "64", "--log_every", "2", "--workers", "0"]
STEPS = 6
TRAINING_IMAGES, VALIDATION_IMAGES = 512, 100

RUNS: dict[str, list[str]] = {
    "scratch": ["train", *CNN, "--crop", "shifted", "--ema_decay", "0.9"],
    "scratch_mixed": ["train", *DISTILLED_VIT, "--mixup", "0.8", "--cutmix", "1.0", "--random_erasing", "0.3"],
    "scratch_workers": ["train", *CNN, "--rand_augment", "rand-m5", "--optimizer", "sgd", "--schedule", "step"],
    "kd": ["distill", *CNN, *FROM_VIT, "--method", "kd", "--label_smoothing", "0.1"],
    "ofa": ["distill", *CNN, *FROM_VIT, "--method", "ofa", "--accumulate", "2", "--clip_gradient", "1.0"],
    "ofa_vit": ["distill", *DISTILLED_VIT, *FROM_CNN, "--method", "ofa"],
    "cakd": ["distill", *CNN, *FROM_VIT, "--method", "cakd", "--stem_stride", "1"],
    "cakd_released": ["distill", *CNN, *FROM_VIT, "--method", "cakd", "--method.kwargs.variant", "released"],
    "fbt": ["distill", *CNN, *FROM_VIT, "--method", "fbt"],
    "fbt_cnn": ["distill", *DISTILLED_VIT, *FROM_CNN, "--method", "fbt"],
    "pat": ["distill", *CNN, *FROM_VIT, "--method", "pat", "--method.kwargs.width", "64"],
    "pat_cnn": ["distill", *DISTILLED_VIT, *FROM_CNN, "--method", "pat", "--method.kwargs.width", "64"],
    "pat_released": ["distill", *CNN, *FROM_VIT, "--method", "pat", "--method.kwargs.variant", "released"],
    "cskd": ["distill", *DISTILLED_VIT, *FROM_CNN, "--method", "cskd"],
    "cskd_soft": ["distill", *DISTILLED_VIT, *FROM_CNN, "--method", "cskd", "--method.kwargs.kind", "soft"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", help="a commit")
    parser.add_argument("after", nargs="?", help="a commit; default: the working tree")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS), help="only these")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = _image_folder(root / "images")
        sources = [_source(options.before, root), _source(options.after, root)]
        differ = []
        for name in options.runs:
            students = [_train(name, data, source, root / f"{name}-{number}") for number, source in enumerate(sources)]
            difference = _difference(*students)
            print(f"{name:<16} {difference or 'equal'}", flush=True)
            differ += [name] if difference else []
    sys.exit(f"{len(differ)} of {len(options.runs)} differ" if differ else 0)


def _source(commit: str | None, root: Path) -> Path:
    """The package's parent folder as of a commit."""
    if commit is None:
        return REPOSITORY / "src"
    tree = root / f"tree-{commit}"
    archive = subprocess.run(["git", "archive", commit, "src"], cwd=REPOSITORY, check=True, capture_output=True)
    tree.mkdir()
    subprocess.run(["tar", "-x"], cwd=tree, input=archive.stdout, check=True)
    return tree / "src"


def _image_folder(root: Path) -> Path:
    """Some of the package's images, as files: every run has to read them."""
    from torchvision.io import write_png

    from crossdistill.data import open_data

    data = open_data("fashion-mini")
    for split, source, count in (("train", data.train, TRAINING_IMAGES), ("val", data.validation, VALIDATION_IMAGES)):
        assert source.pixels is not None
        for number, (pixels, label) in enumerate(zip(source.pixels[:count], source.labels, strict=False)):
            folder = root / split / data.classes[label].replace("/", "-")
            folder.mkdir(parents=True, exist_ok=True)
            write_png(pixels, str(folder / f"{number:04d}.png"))
    # Folders are sorted by name, and a name holds no slash.
    lines = [f"{name.replace('/', '-')} {index}" for index, name in enumerate(data.classes)]
    (root / "classes.txt").write_text("\n".join(lines))
    return root


def _train(name: str, data: Path, source: Path, output: Path) -> Path:
    verb, *options = RUNS[name]
    command = [sys.executable, "-m", "crossdistill", verb, "--data", str(data), *RECIPE, *options]
    command += ["--output", str(output)]
    if verb == "distill":
        command += ["--teacher_classes", str(data / "classes.txt")]
    command += ["--max_steps", str(STEPS), "--checkpoint_every", "3"]
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    if finished.returncode:
        sys.exit(f"{name}: {' '.join(command)}\n{finished.stdout}{finished.stderr}")
    return output


def _difference(before: Path, after: Path) -> str:
    """What differs between two run folders; an empty string where nothing does."""
    ours, theirs = (load_file(folder / "student.safetensors") for folder in (before, after))
    if ours.keys() != theirs.keys():
        return f"tensors {sorted(ours.keys() ^ theirs.keys())}"
    unequal = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    if unequal:
        return f"{len(unequal)} of {len(ours)} tensors, the first is {unequal[0]}"
    lines = [_metrics(folder) for folder in (before, after)]
    return "" if lines[0] == lines[1] else "metrics.jsonl"


def _metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("seconds", "images_per_second")} for line in lines
    ]


if __name__ == "__main__":
    main()
