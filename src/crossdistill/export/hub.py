"""Upload to the Hugging Face Hub, when asked."""

from collections.abc import Sequence
from pathlib import Path

from crossdistill.errors import UserError


def check_hub(repository: str, to: Sequence[str]) -> None:
    """Refuse what cannot be uploaded before anything is written.

    Raises:
        UserError: no timm folder is asked for, or the repository is not named as `owner/name`.
    """
    if "timm" not in to:
        raise UserError("--push uploads the timm folder: add timm to --to")
    if len(repository.split("/")) != 2 or not all(repository.split("/")):
        raise UserError(f"--push {repository}: give a repository as owner/name")


def push_folder(folder: Path, repository: str) -> str:
    """Upload a folder, with the token that `hf auth login` left or `HF_TOKEN`; the repository is made if need be.

    Returns:
        The address of the commit.

    Raises:
        UserError: the hub refuses or does not answer; the folder stays.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        hub.create_repo(repository, exist_ok=True)
        return str(hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload by crossdistill"))
    except Exception as error:
        # Which kinds of errors the hub's client has depends on its version.
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--push {repository}: the hub refused ({reason}); the files are in {folder}") from error
