"""Table of contents of the methods: name -> class. Nothing is imported until a method is asked for."""

import inspect
import re
from collections.abc import Callable
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
    "scalekd": "crossdistill.methods.scalekd.ScaleKD",
    "rsd": "crossdistill.methods.rsd.RSD",
    "vkd": "crossdistill.methods.vkd.VkD",
    "foundation": "crossdistill.methods.foundation.Foundation",
    "pkd": "crossdistill.methods.pkd.PKD",
}

# Constructor arguments that are not the user's to set: the models, and facts of the run.
NOT_HYPERPARAMETERS = ("self", "student", "teacher", "train_size")


def load_method(name: str) -> "type[Distiller]":
    """The class of a method, by its name or by a dotted path.

    Raises:
        UserError: unknown name, or the path does not lead to a `Distiller`.
    """
    if name not in METHODS and "." not in name:
        raise UserError(f"unknown method '{name}'{nearest(name, METHODS)} (see: crossdistill methods)")
    method = import_object(METHODS.get(name, name))
    from crossdistill.distiller import Distiller

    if not (isinstance(method, type) and issubclass(method, Distiller)):
        raise UserError(f"'{name}' is not a Distiller: a method is a subclass of crossdistill.Distiller")
    return method


def method_name(method: "type[Distiller]") -> str:
    """The name that a class has in the table, else its dotted path: what `load_method` takes."""
    path = f"{method.__module__}.{method.__qualname__}"
    return next((name for name, known in METHODS.items() if known == path), path)


def hyperparameters(method: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments of a method that a user may set, by name."""
    parameters = inspect.signature(method).parameters
    return {name: parameter for name, parameter in parameters.items() if name not in NOT_HYPERPARAMETERS}


def parse_hyperparameters(options: MethodOptions) -> dict[str, Any]:
    """The given hyper-parameters, checked against the types that the method's constructor declares.

    Raises:
        UserError: a name that the method does not have (with the nearest), or a value of another type.
    """
    from jsonargparse import ArgumentError, ArgumentParser, Namespace

    method = load_method(options.name)
    known = hyperparameters(method)
    for name in options.kwargs:
        if name not in known:
            raise UserError(
                f"method {options.name} has no hyper-parameter '{name}'{nearest(name, known)} "
                f"(see: crossdistill methods {options.name})"
            )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(method, skip=set(NOT_HYPERPARAMETERS) - {"self"})
    try:
        parsed = parser.parse_object(dict(options.kwargs))
    except ArgumentError as error:
        named = re.match(r'Parser key "(\w+)', str(error))
        if named and named[1] in known:
            wanted, got = type_in_words(known[named[1]].annotation), options.kwargs[named[1]]
            reason = f"{named[1]}: expected {wanted}, got '{got}'"
        else:
            reason = " ".join(str(error).split())
        raise UserError(f"method {options.name}: {reason} (see: crossdistill methods {options.name})") from error
    given = {name: parsed[name] for name in options.kwargs}
    return {name: value.as_dict() if isinstance(value, Namespace) else value for name, value in given.items()}


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
