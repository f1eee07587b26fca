"""Faults -> what the visitor is told; each ends in a plain message and a cleared status."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

import gradio as gr
from loguru import logger

from models.errors import UserError

from .metrics import count_error


def fault_of(error: Exception) -> UserError:
    """What the visitor is told of a fault, which is counted; one of the server's own is logged."""
    count_error(error)
    if isinstance(error, UserError):
        return error
    _log(error)
    return UserError("error_internal")


def told(steps: Generator) -> Generator:
    """The steps of a call of the API; a fault among them becomes an error, in English."""
    with closing(steps):
        try:
            yield from steps
        except Exception as error:
            raise gr.Error(str(fault_of(error)), print_exception=False) from error


def _log(error: Exception) -> None:
    """Where it came from, without the values, which may be the visitor's."""
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
    logger.error(f"{type(error).__name__} at {where}")
