"""The page's options and environment variables; `python -m page.options` prints their table."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from generate import add_model_arguments

from .limits import Limits

PREFIX = "WESTLAKE_"  # of the environment variables, which have the options' names
GRADIO_NAMES = {
    "host": "GRADIO_SERVER_NAME",
    "port": "GRADIO_SERVER_PORT",
    "root_path": "GRADIO_ROOT_PATH",
    "share": "GRADIO_SHARE",
}
YES = ("1", "true", "yes", "on")


def new_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="The page: speak or write, and hear the reply.")
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 serves the whole network")
    parser.add_argument("--port", type=int, default=7860, help="that it listens on")
    parser.add_argument(
        "--allowed-hosts",
        default="",
        metavar="NAMES",
        help="names, with commas between, under which a proxy or the network knows it; * for all",
    )
    parser.add_argument(
        "--root-path", default="", metavar="PATH", help="below which a proxy serves it, as /talk"
    )
    parser.add_argument("--ssl-certfile", metavar="FILE", help="serve https with this certificate")
    parser.add_argument("--ssl-keyfile", metavar="FILE", help="and its key")
    parser.add_argument(
        "--auth",
        metavar="USERS",
        help="who may come in: a file of name:password lines, or such pairs with commas between",
    )
    parser.add_argument(
        "--public-metrics",
        action="store_true",
        help="/metrics answers all who may come in, not only this machine",
    )
    parser.add_argument("--share", action="store_true", help="a public link, through Gradio")
    parser.add_argument(
        "--log-content",
        action="store_true",
        help="log what is said, as is done on 127.0.0.1, wherever it is served",
    )
    parser.add_argument(
        "--data-folder",
        default="",
        metavar="FOLDER",
        help="where listening tests and ratings are kept; else one for data of this user",
    )
    parser.add_argument(
        "--compare-with",
        default="tiny:float32",
        metavar="NAMES",
        help="models, with commas between, that may be compared with it, as tiny:float32",
    )
    parser.add_argument(
        "--mcp",
        action="store_true",
        help="assistants may call speak, encode and decode at /mcp; needs requirements-mcp.txt",
    )
    group = parser.add_argument_group("limits")
    for entry in dataclasses.fields(Limits):
        group.add_argument(
            _option(entry.name),
            type=type(entry.default),
            default=entry.default,
            metavar="N",
            help=entry.metadata["meaning"],
        )
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ
) -> argparse.Namespace:
    """Options as given, else of the environment, else the defaults."""
    parser = new_parser()
    for name, default in vars(parser.parse_args([])).items():
        variables = filter(None, (PREFIX + name.upper(), GRADIO_NAMES.get(name)))
        value = next((environment[key] for key in variables if key in environment), None)
        if value is not None:
            is_flag = isinstance(default, bool)
            parser.set_defaults(**{name: value.lower() in YES if is_flag else value})
    return parser.parse_args(arguments)


def read_limits(options: argparse.Namespace) -> Limits:
    """The limits among parsed options.

    Raises:
        ValueError: a value out of range.
    """
    return Limits(
        **{entry.name: getattr(options, entry.name) for entry in dataclasses.fields(Limits)}
    )


def data_folder(options: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> Path:
    """Where what must outlive the process is kept, as the XDG base directories have it."""
    if options.data_folder:
        return Path(options.data_folder)
    parent = environment.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(parent) / "westlake-omni"


def table() -> str:
    """All options as a Markdown table."""
    parser = new_parser()
    rows = ["| option | environment variable | default | what |", "|---|---|---|---|"]
    for action in parser._actions:
        if action.dest == "help":
            continue
        shown = _shown(action.default)
        cells = (f"`{_option(action.dest)}`", f"`{PREFIX}{action.dest.upper()}`", shown)
        rows.append(f"| {' | '.join(cells)} | {action.help} |")
    return "\n".join(rows)


def _shown(default: object) -> str:
    if isinstance(default, bool) or default in (None, ""):
        return ""
    if isinstance(default, str):
        return f"`{default}`"
    return f"{default:,}" if isinstance(default, int) else f"{default:g}"


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


if __name__ == "__main__":
    print(table())
