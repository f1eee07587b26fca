"""What the stages have left in the work folder; who needs what is not there is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .files import is_up_to_date
from .speech.recordings import Line, missing_shards

CORPUS = ("heldout_users", "replies", "sounds", "users")  # folders of codes


class MissingStageError(RuntimeError):
    """A stage was asked for before another one that it needs."""


class WorkFolder:
    """The folder in which stages leave what they make, and find what the ones before have made.

    All that look for something raise a `MissingStageError` where a stage has to be run first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.takes = path / "takes"

    def made(self, stage: str, name: str | None = None) -> Path:
        """What a stage has put there, `<stage>.pt` without a name."""
        path = self.path / (name or f"{stage}.pt")
        if not path.exists():
            raise MissingStageError(f"{path} is missing: run --stage {stage} first")
        return path

    def need_recordings(self, lines: Mapping[str, Sequence[Line]]) -> None:
        """Refuse to go on with a part of them: what is made of it would count as finished.

        Args:
            lines: what is recorded, by the folder of its takes.
        """
        for name, recorded in lines.items():
            if missing := missing_shards(recorded, self.takes / name):
                raise MissingStageError(
                    f"{self.takes / name} lacks {len(missing)} files: run --stage recordings first"
                )

    def trained_encoder(self) -> Path:
        """What gives codes; clips' codes of an earlier one are removed, to be made anew."""
        source = self.made("hearing")
        for path in self.path.glob("*.codes.pt"):
            if not is_up_to_date(path, source):
                path.unlink()
        return source

    def outdated_corpus(self) -> list[Path]:
        """Folders of the corpus that hold codes of an earlier encoder."""
        encoder, folders = self.made("hearing"), [self.path / name for name in CORPUS]
        return [f for f in folders if not all(is_up_to_date(p, encoder) for p in f.glob("*.pt"))]

    def need_corpus(self) -> None:
        for name in CORPUS:
            self.made("corpus", name)
        if folders := self.outdated_corpus():
            raise MissingStageError(
                f"{folders[0]} holds codes of an earlier encoder: run --stage corpus first"
            )
