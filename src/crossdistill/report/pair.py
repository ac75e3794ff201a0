"""The pair as a drawing: the stages of teacher and student side by side, and what the method reads of each."""

from typing import Any

from markupsafe import Markup

from crossdistill.report.chart import WIDTH, drawing, name_at
from crossdistill.report.page import Figure

_BOX, _GAP = 148, WIDTH - 2 * 148
_STEP, _HEIGHT, _TOP = 58, 44, 22
_HEAD = "head"
# What is read of a model behind its stages, in words.
_AT_HEAD = {
    "logits": "logits",
    "head_logits": "logits of each head",
    "final": "last map",
    "pooled": "pooled features",
}
_BESIDE = {
    "attention": "attention of its last block",
    "prefix": "class and register tokens",
    "segments": "its stages run one by one",
}


def draw_pair(summary: dict[str, Any]) -> Figure | None:
    """The drawing of a run's pair; None where the run did not record its stages.

    Args:
        summary: of the run. Its `stages` and `reads` have an entry for `teacher` and one for `student`.
    """
    stages, reads = summary.get("stages"), summary.get("reads")
    if not stages or not reads:
        return None
    sides = [role for role in ("teacher", "student") if stages[role]]
    depth = max(len(stages[role]) for role in sides)
    parts: list[Markup] = []
    for level in range(depth + 1):
        parts += _level(summary, sides, depth, level)
    height = _TOP + _STEP * (depth + 1)
    svg = drawing(WIDTH, height, "stages of the teacher and the student", parts)
    caption = "Channels @ grid, and what mixes positions."
    if len(sides) == 2:
        caption += " Framed: what the method reads. A line joins what it reads of both; a dotted one is depth alone."
    caption += "".join(_said(role, reads[role]) for role in sides)
    return Figure("Stages, matched by depth", svg, caption=caption)


def _level(summary: dict[str, Any], sides: list[str], depth: int, level: int) -> list[Markup]:
    """The boxes of one depth, counted from the front, and what is between them; behind the stages comes the head."""
    parts = []
    read = {}
    for role in sides:
        x = 0 if role == "teacher" or len(sides) == 1 else _BOX + _GAP
        if level == 0:
            parts.append(name_at(x, 12, f"{role}: {summary[role]}", "start", longest=25, kind="strong"))
        stages = summary["stages"][role]
        k = level - (depth - len(stages))
        wanted = summary["reads"][role]
        if level == depth:
            at_head = [said for need, said in _AT_HEAD.items() if need in wanted]
            read[role] = bool(at_head)
            parts += _box(x, level, _HEAD, ", ".join(at_head), "", bool(at_head))
        elif k >= 0:
            stage = stages[k]
            read[role] = "features" in wanted or f"features.{k + 1}" in wanted
            tokens = f" +{stage['prefix_tokens']}" if stage["prefix_tokens"] else ""
            grid = "x".join(map(str, stage["size"]))
            detail = f"{stage['channels']} @ {grid}{tokens}"
            parts += _box(x, level, stage["path"], detail, ", ".join(stage["mixing"]), read[role])
    if len(read) == 2:
        y = _TOP + _STEP * level + _HEIGHT / 2
        line = Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>')
        parts.append(line.format("match" if all(read.values()) else "depth", _BOX + 3, y, _BOX + _GAP - 3, y))
    return parts


def _box(x: float, level: int, title: str, detail: str, further: str, read: bool) -> list[Markup]:
    y = _TOP + _STEP * level
    box = Markup('<rect class="box{}" x="{}" y="{}" width="{}" height="{}" rx="4"/>')
    detail = f"{detail}  {further}" if further else detail
    return [
        box.format(" read" if read else "", x + 1, y, _BOX - 2, _HEIGHT),
        name_at(x + 9, y + 18, title, "start", longest=22, kind="strong"),
        name_at(x + 9, y + 34, detail, "start", longest=24),
    ]


def _said(role: str, reads: list[str]) -> str:
    words = [said for need, said in _BESIDE.items() if any(one.partition(".")[0] == need for one in reads)]
    return f" Also used of the {role}: {', '.join(words)}." if words else ""
