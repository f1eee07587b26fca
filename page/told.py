"""Faults -> what the visitor is told; each ends in a plain message and a cleared status."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing

import gradio as gr
from loguru import logger

from models.errors import UserError
from strings import say

from .metrics import count_error
from .words import both, fault


def page_error(error: Exception) -> gr.Error:
    """An error of the page, in the browser's language; the message is HTML."""
    count_error(error)
    if isinstance(error, UserError):
        return gr.Error(fault(error), print_exception=False)
    _log(error)
    return gr.Error(both("error_internal"), print_exception=False)


def fault_of(error: Exception) -> UserError:
    """What the visitor is told of a fault, which is counted; one of the server's own is logged."""
    count_error(error)
    if isinstance(error, UserError):
        return error
    _log(error)
    return UserError("error_internal")


def api_error(error: Exception) -> gr.Error:
    """An error of the API, in English."""
    count_error(error)
    if isinstance(error, UserError):
        return gr.Error(str(error), print_exception=False)
    _log(error)
    return gr.Error(say("error_internal", "en"), print_exception=False)


def told(steps: Generator, error_of: Callable[[Exception], gr.Error]) -> Generator:
    """An event's steps; a fault among them becomes an error."""
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration:
                return
            except gr.Error:
                raise
            except Exception as error:
                cause = error
                break
            yield step
    raise error_of(cause) from cause


def _log(error: Exception) -> None:
    """Where it came from, without the values, which may be the visitor's."""
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
    logger.error(f"{type(error).__name__} at {where}")
