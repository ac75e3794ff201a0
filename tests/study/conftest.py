from study.helpers import runs

__all__ = ["runs"]
