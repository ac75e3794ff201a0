"""The teacher's outputs on disk, by their place in a run's stream of batches or by image."""

from crossdistill.cache.answers import Answers
from crossdistill.cache.columns import Form
from crossdistill.cache.streams import Replay, Static
from crossdistill.cache.teacher_cache import TeacherCache

__all__ = ["Answers", "Form", "Replay", "Static", "TeacherCache"]
