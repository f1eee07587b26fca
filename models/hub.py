"""A checkpoint's name -> its folder, fetched from Hugging Face where it has to be."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from .errors import UserError, shown

TINY = Path(__file__).parents[1] / "checkpoints" / "tiny"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
TEXT_FILES = ("*.json", "merges.txt")


def find_folder(
    name_or_path: str | os.PathLike, revision: str | None, weight_files: Sequence[str]
) -> Path:
    """Find a checkpoint.

    Args:
        name_or_path: "tiny", the embedded one; else a folder; else a Hugging Face id "owner/name".
        revision: branch, tag or commit of a Hugging Face id.
        weight_files: what to fetch beside configs and tokenizer.

    Raises:
        UserError: none of the three.
        ValueError: a revision of what is no Hugging Face id.
        RuntimeError: the download failed.
    """
    name = os.fspath(name_or_path)
    folder = TINY if name == "tiny" else Path(name).expanduser()
    if not name or not folder.is_dir():
        if HUB_ID.fullmatch(name):
            return _download(name, revision, weight_files)
        raise UserError("error_unknown_checkpoint", name=shown(name))
    if revision is not None:
        raise ValueError(f"revision {revision!r} needs a Hugging Face id, but {folder} is a folder")
    return folder


def public_name(name: str) -> str:
    """A checkpoint's name as strangers may read it: a folder's without the place where it lies."""
    folder = Path(name).expanduser()
    return folder.name if folder.is_absolute() or folder.is_dir() else name


def _download(repo_id: str, revision: str | None, weight_files: Sequence[str]) -> Path:
    """Fetch what is not yet in the Hugging Face cache, with a progress bar."""
    from huggingface_hub import snapshot_download  # here, as only a hub id needs it

    patterns = [*TEXT_FILES, *weight_files]
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub's errors and its HTTP library's have no common type
        raise RuntimeError(
            f"there is no folder {repo_id!r} here, and fetching it from Hugging Face failed "
            f"({error}). Check the name, the revision and the network (behind a mirror, set "
            "HF_ENDPOINT), or download it by hand and give its folder"
        ) from error
