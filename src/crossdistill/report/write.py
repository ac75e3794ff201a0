"""Write the page of a folder."""

from pathlib import Path

from crossdistill.errors import UserError
from crossdistill.files import written_whole
from crossdistill.report.page import to_html
from crossdistill.report.run import run_page
from crossdistill.report.study import study_page
from crossdistill.study.metrics import Reported, find_metric
from crossdistill.study.record import has_record, read_record
from crossdistill.training.run_folder import RunFolder, load_recipe

_FILE = "report.html"


def write_report(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    baseline: str | Path | None = None,
    images: bool = True,
    live: bool = False,
) -> Path:
    """Write one HTML page about a run or a study, which needs nothing but itself.

    Args:
        folder: of a run, or of a study.
        output: the page; default: `report.html` in the folder.
        baseline: folder of another run on the same images, to compare a run with.
        images: show validation images, which opens the data that the recipe names.
        live: the study is still running: the page reloads itself.

    Returns:
        Where the page is.

    Raises:
        UserError: the folder is neither, a file in it is damaged, or the page cannot be written there.
    """
    folder = Path(folder).expanduser()
    file = folder / _FILE if output is None else Path(output).expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    if file.is_dir() or not file.parent.is_dir():
        what = "it is a folder" if file.is_dir() else f"there is no folder {file.parent}"
        raise UserError(f"--output {file}: {what}; name a file such as report.html")
    if _is_of_boxes(folder):
        raise UserError(
            f"report shows classification, and {folder} is of detection: see its summary.json or results.md, and draw "
            "boxes with: crossdistill predict"
        )
    if has_record(folder):
        if baseline is not None:
            raise UserError("--baseline belongs to a run: a study has its own")
        page = study_page(folder, images=images, live=live)
    elif (run := RunFolder(folder)).recipe.exists():
        page = run_page(run, baseline=None if baseline is None else _baseline(baseline), images=images)
    else:
        raise UserError(f"{folder} is neither a run nor a study: it has no {run.recipe.name} and no study.yaml")
    with written_whole(file) as beside:
        beside.write_text(to_html(page), encoding="utf-8")
    return file


def _is_of_boxes(folder: Path) -> bool:
    if has_record(folder):
        return isinstance(find_metric(read_record(folder).study.metric), Reported)
    return (recipe := RunFolder(folder).recipe).exists() and load_recipe(recipe).task == "detection"


def _baseline(folder: str | Path) -> RunFolder:
    run = RunFolder(folder)
    if not run.finished:
        raise UserError(f"--baseline {folder}: there is no finished run in it")
    return run
