"""Objects by dotted path: how users' own models, methods and data are named."""

import importlib
from typing import Any

from crossdistill.errors import UserError


def import_object(path: str) -> Any:
    """The object at a dotted path such as `my_lab.methods.Foo`.

    Raises:
        UserError: there is no such module or attribute.
    """
    module_name, _, attribute = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"cannot import '{path}': {error}") from error
