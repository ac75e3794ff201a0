"""From a name to a bare module: timm's models, and callables by dotted path."""

import importlib.util
import inspect
import re
import sys
from typing import Any

import timm
from torch import nn

from crossdistill.errors import UserError, nearest
from crossdistill.imports import import_object
from crossdistill.models.hub import check_hub
from crossdistill.names import unknown_model


def create_module(
    name: str,
    kwargs: dict[str, Any],
    *,
    num_classes: int | None,
    image_size: tuple[int, int] | None,
    pretrained: bool,
    role: str,
) -> nn.Module:
    """Create a model.

    Args:
        name: timm name, `hf-hub:` or `local-dir:` name, or the dotted path of a callable that returns a module, as
            `check_name` lets it pass.
        kwargs: arguments for it; `img_size` among them must be taken, whatever `image_size` is.
        num_classes: number of outputs, 0 for no head; None leaves it to the model. A callable by dotted path gets it if
            it has such a parameter.
        image_size: (height, width) in pixels, for timm models that are built for one size, and for a callable by dotted
            path that names a parameter `img_size`.
        pretrained: let timm load its weights; nothing is asked of a callable by dotted path.
        role: "student" or "teacher", for the flags in errors.

    Raises:
        UserError: refused argument or size, weights that are neither in the hub's cache nor can be downloaded.
    """
    size: dict[str, Any] = {}
    if image_size is not None and "img_size" not in kwargs:
        # As one number where it can be one: not every constructor takes two.
        size["img_size"] = image_size[0] if image_size[0] == image_size[1] else image_size
    if is_dotted_path(name):
        return _call(name, kwargs, num_classes, size)

    check_hub(name, kwargs, pretrained=pretrained, role=role)

    def create(**size: Any) -> nn.Module:
        return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **kwargs, **size)

    try:
        try:
            return create(**size)
        except TypeError as error:
            # Only models of fixed size have this argument; the others, CNNs mostly, take any image.
            if size and _refused_argument(error) == "img_size":
                return create()
            raise
    except Exception as error:
        # Anything may come out of a constructor or a download; what the user can mend is what they asked for.
        raise UserError(_why_not_created(error, name, kwargs | size, pretrained, role)) from error


def is_dotted_path(name: str) -> bool:
    """Whether a model's name is the path of a Python object; timm's names may hold a dot before their tag."""
    root, dot, _ = name.partition(".")
    if not (root and dot) or ":" in name or timm.is_model(root):
        return False
    return root in sys.modules or importlib.util.find_spec(root) is not None


def check_name(name: str) -> None:
    """Make sure that a model exists; where a `hf-hub:` or `local-dir:` name leads, timm finds out.

    Raises:
        UserError: neither timm nor an installed package has it; tells the nearest of timm's names.
    """
    if ":" in name or is_dotted_path(name):
        return
    root = name.partition(".")[0]
    if not timm.is_model(root):
        raise unknown_model(name, timm.list_models())
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise UserError(f"unknown tag of '{name}'{nearest(name, timm.list_pretrained(f'{root}.*'))}") from error


def _call(path: str, kwargs: dict[str, Any], outputs: int | None, size: dict[str, Any]) -> nn.Module:
    function = import_object(path)
    if not callable(function):
        raise UserError(f"{path} is a {type(function).__name__}, not a class or a function that returns a model")
    parameters = inspect.signature(function).parameters
    if "img_size" in parameters:
        kwargs = {**kwargs, **size}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if outputs is not None and (takes_any or "num_classes" in parameters):
        kwargs = {**kwargs, "num_classes": outputs}
    try:
        model = function(**kwargs)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} refuses its arguments {kwargs}: {_first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{path} returns a {type(model).__name__}, not a torch.nn.Module")
    return model


def _why_not_created(error: Exception, name: str, arguments: dict[str, Any], pretrained: bool, role: str) -> str:
    refused = _refused_argument(error)
    if refused:
        return f"{name} has no argument '{refused}': leave --{role}.kwargs.{refused} out"
    if pretrained and isinstance(error, OSError):
        return f"cannot download the pretrained weights of {name}: give --{role}_weights FILE ({_first_line(error)})"
    return f"{name} cannot be built with {arguments}: {_first_line(error)}"


def _refused_argument(error: Exception) -> str:
    """The keyword argument that a call refused, or an empty string."""
    match = re.search(r"(?:unexpected keyword argument|multiple values for keyword argument) '(\w+)'", str(error))
    return match[1] if match and isinstance(error, TypeError) else ""


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
