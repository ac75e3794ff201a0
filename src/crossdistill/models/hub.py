"""The hub that timm's weights come from: what it does not give is found out at once."""

from typing import Any

import timm

from crossdistill.errors import UserError

# Seconds. Its own client tries again and again, for the better part of a minute, before it gives up.
_PATIENCE = 5.0
# What a repository calls its weights.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def check_hub(name: str, kwargs: dict[str, Any], *, pretrained: bool, role: str) -> None:
    """Make sure that the hub can be asked for what timm will ask it for, or that it is in the hub's cache already.

    What is in the cache is not asked for here.

    Args:
        name: as for `timm.create_model`.
        kwargs: arguments for it.
        pretrained: whether weights are wanted.
        role: "student" or "teacher", for the flags in errors.

    Raises:
        UserError: the hub does not answer, or may not be asked (`HF_HUB_OFFLINE`).
    """
    wanted = _wanted(name, kwargs, pretrained)
    if wanted is None or _is_cached(*wanted):
        return
    from huggingface_hub import constants, get_session

    what = f"the {'pretrained weights' if pretrained else 'settings'} of {name}"
    instead = f"give --{role}_weights FILE" if pretrained else f"name another model with --{role}"
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"HF_HUB_OFFLINE is set and {what} are not in the cache: unset it, or {instead}")
    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except Exception as error:
        # Which client the hub has, and so its kinds of errors, depends on its version.
        raise UserError(f"cannot reach {constants.ENDPOINT} for {what}: check the connection, or {instead}") from error


def _wanted(name: str, kwargs: dict[str, Any], pretrained: bool) -> tuple[str, list[tuple[str, ...]]] | None:
    """The repository, and the kinds of files, each under any of several names; None where the hub is not asked."""
    if name.startswith(("hf-hub:", "hf_hub:")):
        return name.partition(":")[2], [("config.json",), *([_WEIGHTS] if pretrained else [])]
    # A user who says where the weights are to come from is taken at their word.
    if not pretrained or ":" in name or {"pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"} & kwargs.keys():
        return None
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return None
    return config.hf_hub_id, [(config.hf_hub_filename,) if config.hf_hub_filename else _WEIGHTS]


def _is_cached(repository: str, wanted: list[tuple[str, ...]]) -> bool:
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = repository.partition("@")
    return all(
        any(isinstance(try_to_load_from_cache(repository, file, revision=revision or None), str) for file in files)
        for files in wanted
    )
