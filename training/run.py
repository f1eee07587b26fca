"""Make the embedded checkpoint: python -m training.run --minutes 180

Every stage is resumable and can be run alone with --stage; what a finished stage has written is
taken as it is.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from loguru import logger

from models.devices import find_device

from .loop import StateError
from .recipe import Recipe
from .speech.given import GivenError, given_lines
from .speech.speakers import check_voices
from .work_folder import MissingStageError


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=180, help="of training, over all stages")
    parser.add_argument("--work", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--output", type=Path, default=Path("checkpoints/tiny"))
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--workers", type=int, default=2, help="processes that synthesise")
    parser.add_argument("--start", type=Path, help="folder of a checkpoint to train on from")
    parser.add_argument("--voices", type=Path, help="folder of all of Kokoro's voices; see README")
    parser.add_argument(
        "--recordings", type=Path, help="folder of recordings by others; see README"
    )
    parser.add_argument("--stage", help="only this one")
    options = parser.parse_args(arguments)
    if not 0 < options.minutes < math.inf:
        parser.error(f"--minutes is {options.minutes:g}, but must be a number above 0")
    if options.workers < 1:
        parser.error(f"--workers is {options.workers}, but must be at least 1")
    try:
        device = find_device(options.device)
        if options.voices:
            check_voices(options.voices)
    except ValueError as error:
        parser.error(str(error))
    recipe = Recipe(
        options.work,
        options.output,
        options.minutes,
        device.type,
        options.workers,
        options.start,
        options.voices,
        options.recordings,
    )
    if options.recordings:
        try:
            given_lines(options.recordings, recipe.dialogues)
        except GivenError as error:
            parser.error(str(error))
    stages = recipe.stages()
    if options.stage and options.stage not in stages:
        parser.error(f"unknown stage {options.stage!r}: choose one of {', '.join(stages)}")
    for name, stage in stages.items():
        if options.stage in (None, name):
            logger.info(f"stage {name}")
            try:
                stage()
            except (MissingStageError, StateError, GivenError) as error:
                parser.error(str(error))


if __name__ == "__main__":
    main()
