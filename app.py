"""The page: its tabs and its API put together, its options, and its server."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

# Read when gradio is imported: no request leaves the machine, no tables of all events are made.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(2**31))

import gradio as gr  # noqa: E402
import gradio.routes  # noqa: E402
from fastapi import FastAPI  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402

from listening.store import Store  # noqa: E402
from models.contract import SpeechModel  # noqa: E402
from models.load import load_model  # noqa: E402
from models.voice_activity import load_detector  # noqa: E402
from models.zero_gpu import is_lent, load_on_zero_gpu  # noqa: E402
from page import metrics, server, words  # noqa: E402
from page.api import Api  # noqa: E402
from page.calls import MODEL, Calls  # noqa: E402
from page.compare import OPEN_TEST, CompareTab  # noqa: E402
from page.connections import bound_idle  # noqa: E402
from page.entrance import Entrance  # noqa: E402
from page.files import Files  # noqa: E402
from page.gate import Gate  # noqa: E402
from page.inspect import InspectTab  # noqa: E402
from page.limiter import Readers  # noqa: E402
from page.limits import Limits, listening_limits  # noqa: E402
from page.login import read_users  # noqa: E402
from page.options import data_folder, parse_arguments, read_limits  # noqa: E402
from page.private import PrivateFolder  # noqa: E402
from page.sessions import Sessions  # noqa: E402
from page.shelf import Shelf, read_names  # noqa: E402
from page.talk import EXAMPLE_FOLDER, TalkTab, example_recordings  # noqa: E402

FONT = ("system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif")
MAX_THREADS = 64
FINISH_PAUSE = 0.05
READ_SECONDS = 2.0  # without a request, after which the last reply's sound has been fetched
THEME = gr.themes.Base(
    primary_hue="teal",
    neutral_hue="slate",
    radius_size="lg",
    font=FONT,
    font_mono=("ui-monospace", "monospace"),
).set(
    body_background_fill="#f4f6f6",
    body_background_fill_dark="#0c1216",
    block_background_fill_dark="#141c22",
    body_text_color_subdued="#475569",
    body_text_color_subdued_dark="#a8b5c4",
    block_info_text_color="#475569",
    block_info_text_color_dark="#a8b5c4",
    block_label_text_color="#334155",
    block_label_text_color_dark="#cbd5e1",
)


class Page:
    """The page for a model, and all that stands behind it; `close` it in the end.

    Args:
        log_content: the log may hold what is said.
        users: names and passwords of those who may come in; empty for everybody.
        public_metrics: see `Entrance`.
        data_folder: where listening tests outlive the process; None lets them end with it.
        compare_with: models that they may use beside this one, as "checkpoint:dtype".
        compare_on: the device of these; None for this one's.
        mcp: assistants may call the API at /mcp.
    """

    def __init__(
        self,
        model: SpeechModel,
        limits: Limits | None = None,
        *,
        log_content: bool = False,
        users: Mapping[str, str] | None = None,
        public_metrics: bool = False,
        data_folder: Path | None = None,
        compare_with: Sequence[str] = (),
        compare_on: str | None = None,
        mcp: bool = False,
    ) -> None:
        self.limits = limits or Limits()
        self._folder = PrivateFolder()
        os.environ["GRADIO_TEMP_DIR"] = str(self._folder.path)
        gradio.routes.DEFAULT_TEMP_DIR = str(self._folder.path)  # or it makes one for all users
        data_folder = data_folder or self._folder.path / "data"
        gr.set_static_paths([EXAMPLE_FOLDER])
        self.files = Files(self._folder.path, self.limits, example_recordings())
        self.sessions = Sessions(model, self.files, self.limits, log_content)
        self.store = Store(data_folder, listening_limits(self.limits))
        self.readers, shelf = Readers(), Shelf(model, compare_with, compare_on)
        with gr.Blocks(title=" · ".join(words.title(model).values())) as self.demo:
            gr.HTML(words.header(model))
            with gr.Tabs():
                with gr.Tab(words.label("tab_talk"), elem_id="talk-tab"):
                    TalkTab(self.demo, self.sessions, self.readers, shelf)
                with gr.Tab(words.label("compare"), elem_id="compare-tab"):
                    CompareTab(self.sessions, self.store, shelf)
                with gr.Tab(words.label("inspect"), elem_id="inspect-tab"):
                    InspectTab(self.sessions, self.readers)
            self.demo.load(None, None, None, js=OPEN_TEST, api_visibility="private")
            api = Api(self.sessions, self.readers)
            for endpoint in (api.speak, api.encode, api.decode):
                gr.api(
                    endpoint,
                    api_name=endpoint.__name__,
                    concurrency_id=MODEL,
                    concurrency_limit=self.limits.max_replies,
                )
        for function in self.demo.fns.values():
            function.queue = True  # the gate lets nothing past the queue, Gradio's own neither
        self.demo.queue(default_concurrency_limit=self.limits.max_replies, api_open=False)
        self.calls = Calls(self.demo, self.limits, self.files, self.readers)
        self._assistants = None
        if mcp:
            from page.assistants import Assistants  # whose package only this needs

            self._assistants = Assistants(api, self.calls).answer
        self._entrance: dict[str, Any] = {"users": users, "public_metrics": public_metrics}
        metrics.QUEUE.set_function(lambda: self.calls.num_waiting)
        metrics.SESSIONS.set_function(lambda: len(self.sessions))

    def launch(
        self, is_host: Callable[[str], bool] = server.LOOPBACK.__contains__, **options: Any
    ) -> str:
        """Serve the page, and return; see `gr.Blocks.launch` for the options.

        Args:
            is_host: whether the page may be asked for under a name.

        Returns:
            Its address on this machine.
        """
        _, url, _ = self.demo.launch(
            prevent_thread_lock=True,
            max_threads=MAX_THREADS,
            state_session_capacity=256,
            **self._served(is_host),
            **options,
        )
        bound_idle(self.demo.server.config, self.limits)
        return url

    def asgi(self, is_host: Callable[[str], bool], root_path: str = "") -> FastAPI:
        """The page for a server of somebody else's; `is_host` as of `launch`."""
        self.demo.max_threads = MAX_THREADS
        return gr.mount_gradio_app(
            FastAPI(), self.demo, "/", root_path=root_path, show_error=False,
            **self._served(is_host),
        )  # fmt: skip

    def _served(self, is_host: Callable[[str], bool]) -> dict[str, Any]:
        """What holds however it is served, which begins now."""
        Thread(target=load_detector).start()  # ready before the first microphone is
        entrance = Middleware(Entrance, limits=self.limits, health=self.health, **self._entrance)
        gate = Middleware(
            Gate, limits=self.limits, files=self.files, calls=self.calls,
            see=self.sessions.see, is_host=is_host, assistants=self._assistants,
        )  # fmt: skip
        return {
            "app_kwargs": {"middleware": [entrance, gate]},
            "theme": THEME,
            "css": "".join(map(words.asset, ("page.css", "compare.css", "inspect.css"))),
            "head": words.head(),
            "i18n": words.I18N,
            "footer_links": ["api", "gradio"],
            "max_file_size": self.limits.max_upload_bytes,
            "enable_monitoring": False,
            "mcp_server": False,  # Gradio's own: all callers would be one visitor to the page
            "run_history": False,
            "ssr_mode": False,
        }

    def health(self) -> dict[str, Any]:
        """What `/healthz` tells."""
        model = self.sessions.model
        return {
            "ready": not self.calls.is_ending,
            "model": Path(model.name).name,
            "device": model.device,
            "dtype": model.dtype,
            "queue_length": self.calls.num_waiting,
        }

    def finish(self) -> None:
        """Take no more calls, and let the replies under way end, for `Limits.stop_seconds`."""
        self.calls.is_ending = True
        end = time.monotonic() + self.limits.stop_seconds
        calm = 0.0  # the time at which nothing is left to be waited for
        while time.monotonic() < end:
            if self.calls.num_replies:
                calm = time.monotonic() + READ_SECONDS
            elif calm:  # the last replies' sounds are still fetched
                calm = max(calm, self.calls.last_asked + READ_SECONDS)
            if time.monotonic() > calm:
                break
            time.sleep(FINISH_PAUSE)

    def close(self) -> None:
        """Stop serving, and remove every file that visitors brought or got."""
        self.demo.close()
        self.sessions.close()
        self._folder.close()


def serve(options: argparse.Namespace) -> None:
    """Load the model and serve the page until the process is told to end.

    Raises:
        ValueError: an option that can't be; a checkpoint that can't be loaded.
        RuntimeError: the download failed.
    """
    limits = read_limits(options)
    server.check_packages(options)
    server.check_place(options)
    server.bypass_proxy(options.host)
    users = read_users(options.auth)
    # A GPU that is lent is there for the served model alone.
    load, others_on = (
        (load_on_zero_gpu, "cpu") if is_lent(options.device) else (load_model, options.device)
    )
    compare_with = read_names(options.compare_with, others_on)
    model = load(options.checkpoint, options.device, options.dtype, options.revision)
    model.warm_up()
    log_content = options.log_content or not server.is_public(options)
    with ExitStack() as stack:
        page = Page(
            model,
            limits,
            log_content=log_content,
            users=users,
            public_metrics=options.public_metrics,
            data_folder=data_folder(options),
            compare_with=compare_with,
            compare_on=others_on,
            mcp=options.mcp,
        )
        stack.callback(page.close)
        try:
            page.launch(
                server.host_check(options),
                server_name=server.url_host(options.host),
                server_port=options.port,
                share=options.share,
                root_path=options.root_path,
                ssl_certfile=options.ssl_certfile,
                ssl_keyfile=options.ssl_keyfile,
                ssl_verify=False,
            )
        except OSError as error:  # the port was free before the model was loaded
            raise ValueError(
                f"the page can't be served at port {options.port}, which may be taken by now: "
                "give another one with --port, or stop what uses it"
            ) from error
        with suppress(KeyboardInterrupt):
            Event().wait()
        with suppress(KeyboardInterrupt):  # who asks twice does not wait
            page.finish()
        logging.disable()  # a stream that is cut off from here on is no fault


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    # Either ends the page without a file left; a shell starts background jobs deaf to the second.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        serve(options)
    except (ValueError, RuntimeError) as error:
        print("app.py:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
