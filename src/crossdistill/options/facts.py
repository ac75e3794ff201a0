"""Facts about an option, as metadata of its field."""

from typing import Any

# It may differ when a run goes on: where and how it is computed and reported, not what is computed.
FREE_ON_RESUME: dict[str, Any] = {"free_on_resume": True}
# A model that is trained alone has no such option.
TEACHER_ONLY: dict[str, Any] = {"teacher_only": True}
# "auto" stands for what the run found when it began; one that goes on keeps it.
FOUND_AT_START: dict[str, Any] = {"found_at_start": True}
