"""A checkpoint's name -> its folder, fetched from Hugging Face where it has to be."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from loguru import logger

from .errors import UserError, shown

TINY = Path(__file__).parents[1] / "checkpoints" / "tiny"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
ASK_SECONDS = 10.0  # the longest wait for an answer
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
    folder = local_folder(name)
    if folder is None:
        return _download(name, revision, weight_files)
    if revision is not None:
        raise ValueError(f"revision {revision!r} needs a Hugging Face id, but {folder} is a folder")
    return folder


def local_folder(name: str) -> Path | None:
    """The folder of a checkpoint on this machine; None for a Hugging Face id.

    Raises:
        UserError: neither of them.
    """
    folder = TINY if name == "tiny" else Path(name).expanduser()
    if name and folder.is_dir():
        return folder
    if HUB_ID.fullmatch(name):
        return None
    raise UserError("error_unknown_checkpoint", name=shown(name))


def check_hub_id(repo_id: str, files: Sequence[str]) -> None:
    """Find out whether a Hugging Face id exists, where that can be found out.

    Args:
        files: one of which is in the cache if the checkpoint is.

    Raises:
        ValueError: there is no such id.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import RepositoryNotFoundError

    if any(isinstance(try_to_load_from_cache(repo_id, file), str) for file in files):
        return
    try:
        HfApi().model_info(repo_id, timeout=ASK_SECONDS)
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"there is no folder {repo_id!r} here, and no such id at Hugging Face: check the name"
        ) from error
    except Exception as error:  # its other errors and its HTTP library's have no common type
        logger.warning(
            f"whether Hugging Face has {repo_id} can't be found out ({type(error).__name__}): it "
            "is asked again when the checkpoint is first used"
        )


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
