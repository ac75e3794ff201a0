"""Table of contents of the methods: name -> class. Nothing is imported until a method is asked for."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from crossdistill.errors import UserError, nearest
from crossdistill.imports import import_object
from crossdistill.options import MethodOptions, type_in_words

if TYPE_CHECKING:
    from crossdistill.distiller import Distiller
    from crossdistill.staged import StagedModel

METHODS: dict[str, str] = {
    "scratch": "crossdistill.methods.scratch.Scratch",
    "kd": "crossdistill.methods.kd.KD",
    "dkd": "crossdistill.methods.dkd.DKD",
    "dist": "crossdistill.methods.dist.DIST",
    "deit": "crossdistill.methods.deit.DeiT",
    "rkd": "crossdistill.methods.rkd.RKD",
    "crd": "crossdistill.methods.crd.CRD",
    "sp": "crossdistill.methods.sp.SP",
    "cc": "crossdistill.methods.cc.CC",
    "pkt": "crossdistill.methods.pkt.PKT",
    "minilm": "crossdistill.methods.minilm.MiniLM",
    "ofa": "crossdistill.methods.ofa.OFA",
    "cakd": "crossdistill.methods.cakd.cakd.CAKD",
    "fbt": "crossdistill.methods.fbt.fbt.FBT",
    "pat": "crossdistill.methods.pat.pat.PAT",
    "cskd": "crossdistill.methods.cskd.CSKD",
    "fitnet": "crossdistill.methods.fitnet.FitNet",
    "at": "crossdistill.methods.at.AT",
    "nst": "crossdistill.methods.nst.NST",
    "vid": "crossdistill.methods.vid.VID",
    "reviewkd": "crossdistill.methods.reviewkd.ReviewKD",
    "ofd": "crossdistill.methods.ofd.OFD",
    "afd": "crossdistill.methods.afd.AFD",
    "ab": "crossdistill.methods.ab.AB",
    "scalekd": "crossdistill.methods.scalekd.ScaleKD",
    "rsd": "crossdistill.methods.rsd.RSD",
    "vkd": "crossdistill.methods.vkd.VkD",
    "foundation": "crossdistill.methods.foundation.Foundation",
}

# Constructor arguments that are not the user's to set: the models, and facts of the run.
NOT_HYPERPARAMETERS = ("self", "student", "teacher", "train_size")


def check_method(name: str) -> None:
    """Refuse the name of a method that there is not. None is imported, and no dotted path is looked at.

    Args:
        name: a name of the table, a dotted path, or several of them with `+` between: `kd+fitnet`.

    Raises:
        UserError: with the nearest name.
    """
    for part in name.split("+"):
        if part not in METHODS and "." not in part:
            raise UserError(f"unknown method '{part}'{nearest(part, METHODS)} (see: crossdistill methods)")


def is_method(name: str) -> bool:
    """Whether this is a name of the table, or several with `+` between."""
    return all(part in METHODS for part in name.split("+"))


def load_method(name: str) -> "type[Distiller]":
    """The class of a method, by its name or by a dotted path; of several with `+` between, that of all together.

    Raises:
        UserError: unknown name, or the path does not lead to a `Distiller`.
    """
    check_method(name)
    if "+" in name:
        from crossdistill.methods.together import together

        return together(*((part.rpartition(".")[2], load_method(part)) for part in name.split("+")))
    method = import_object(METHODS.get(name, name))
    from crossdistill.distiller import Distiller

    if not (isinstance(method, type) and issubclass(method, Distiller)):
        raise UserError(f"'{name}' is not a Distiller: a method is a subclass of crossdistill.Distiller")
    return method


def method_name(method: "type[Distiller]") -> str:
    """The name that a class has in the table, else its dotted path: what `load_method` takes."""
    if parts := _parts(method):
        return "+".join(map(method_name, parts.values()))
    path = f"{method.__module__}.{method.__qualname__}"
    return next((name for name, known in METHODS.items() if known == path), path)


def hyperparameters(method: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments of a method that a user may set, by name; those of several together as `kd.temperature`."""
    known = {
        name: parameter
        for name, parameter in inspect.signature(method).parameters.items()
        if name not in NOT_HYPERPARAMETERS and parameter.kind is not parameter.VAR_KEYWORD
    }
    for part, one in _parts(method).items():
        own = hyperparameters(one)
        # The labels count once, and their weight is that of all together.
        known |= {f"{part}.{name}": parameter for name, parameter in own.items() if name != "label_weight"}
    return known


def _parts(method: Any) -> "Mapping[str, type[Distiller]]":
    """The methods of a class that is several together, by name."""
    return getattr(method, "methods", {})


def parse_hyperparameters(options: MethodOptions) -> dict[str, Any]:
    """The given hyper-parameters, checked against the types that the method's constructor declares.

    Returns:
        Those that were given, by the names of `hyperparameters`.

    Raises:
        UserError: a name that the method does not have (with the nearest), or a value of another type.
    """
    method = load_method(options.name)
    parts = _parts(method)
    known = hyperparameters(method)
    kwargs = _flat(options.kwargs, parts)
    for name in kwargs:
        if name not in known:
            ends = [full for full in known if full.endswith(f".{name}")]
            if parts and name.endswith("label_weight"):
                hint = "; the labels count once: give label_weight without a method's name"
            else:
                hint = f"; did you mean '{ends[0]}'?" if ends else nearest(name, known)
            raise UserError(
                f"method {options.name} has no hyper-parameter '{name}'{hint} "
                f"(see: crossdistill methods {options.name})"
            )
    # Several are parsed one by one, each by its own constructor.
    given = _parse(options.name, method, {name: value for name, value in kwargs.items() if "." not in name})
    for part, one in parts.items():
        own = {key.partition(".")[2]: value for key, value in kwargs.items() if key.startswith(f"{part}.")}
        given |= {f"{part}.{name}": value for name, value in _parse(method_name(one), one, own).items()}
    return given


def _flat(kwargs: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """`{"kd": {"temperature": 2}}` as `{"kd.temperature": 2}`, which is another way to write it."""
    flat: dict[str, Any] = {}
    for name, value in kwargs.items():
        if name in parts and isinstance(value, Mapping):
            flat |= {f"{name}.{key}": given for key, given in value.items()}
        else:
            flat[name] = value
    return flat


def _parse(name: str, method: "type[Distiller]", kwargs: dict[str, Any]) -> dict[str, Any]:
    from jsonargparse import ArgumentError, ArgumentParser, Namespace

    if not kwargs:
        return {}
    known = hyperparameters(method)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(method, skip=set(NOT_HYPERPARAMETERS) - {"self"})
    try:
        parsed = parser.parse_object(dict(kwargs))
    except ArgumentError as error:
        named = re.match(r'Parser key "(\w+)', str(error))
        if named and named[1] in known:
            wanted, got = type_in_words(known[named[1]].annotation), kwargs[named[1]]
            reason = f"{named[1]}: expected {wanted}, got '{got}'"
        else:
            reason = " ".join(str(error).split())
        raise UserError(f"method {name}: {reason} (see: crossdistill methods {name})") from error
    given = {key: parsed[key] for key in kwargs}
    return {key: value.as_dict() if isinstance(value, Namespace) else value for key, value in given.items()}


def build_distiller(
    options: MethodOptions,
    student: "StagedModel",
    teacher: "StagedModel | None" = None,
    *,
    train_size: int | None = None,
) -> "Distiller":
    """The method for this pair.

    Args:
        options: the method's name and hyper-parameters.
        student: the model that is trained.
        teacher: the model that is learnt from.
        train_size: number of training images, for methods whose constructor asks for it (memory banks).

    Raises:
        UserError: unknown method or hyper-parameter, or the method does not fit the pair.
    """
    method = load_method(options.name)
    arguments = parse_hyperparameters(options)
    if "train_size" in inspect.signature(method).parameters:
        arguments["train_size"] = train_size
    return method(student, teacher, **arguments)
