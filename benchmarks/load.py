"""Many users at once: python -m benchmarks.load --users 16 --turns 20

The page runs in a process of its own; each user is a gradio_client with a conversation, who asks as
soon as the last reply is there. Afterwards every conversation is had once more, alone and with the
same seeds: each reply must be the same, sample by sample. Then one user has a long conversation, in
which memory must not grow. With --tabs, so many more users come, say one line and leave.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from gradio_client import Client

from .common import checkpoint_folder, report

ROOT = Path(__file__).parents[1]
EARLY_TURN = 20  # after which memory has reached its size
START_SECONDS, BUSY_SECONDS, BUSY = 600, 0.2, "busy"
TEXTS = ("最近心情不好，能聊聊吗？", "我并不喜欢现在的工作。", "家里人不同意我去当电竞选手。")


@dataclass
class Server:
    """The page's process, and what can be seen of it from outside."""

    process: subprocess.Popen
    url: str
    folder: Path

    @property
    def memory(self) -> int:
        """Resident bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @property
    def num_files(self) -> int:
        """Sounds that are kept."""
        return len(list(self.folder.glob("westlake-omni-*/*/*.wav")))


@contextmanager
def served(checkpoint: str, options: list[str]) -> Iterator[Server]:
    with socket.socket() as trial, tempfile.TemporaryDirectory() as folder:
        trial.bind(("127.0.0.1", 0))
        port = str(trial.getsockname()[1])
        trial.close()
        process = subprocess.Popen(
            [sys.executable, "app.py", "--port", port, "--checkpoint", checkpoint, *options],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": folder},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        url = f"http://127.0.0.1:{port}/"
        try:
            _wait(process, f"{url}healthz")
            yield Server(process, url, Path(folder))
        finally:
            process.terminate()
            process.wait(60)


def _wait(process: subprocess.Popen, url: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError):
            urllib.request.urlopen(url)
            return
        time.sleep(0.1)
    sys.exit("the page did not start")


@dataclass
class User:
    """Somebody who talks: the replies, and how long they took."""

    number: int
    replies: list[np.ndarray] = field(default_factory=list)
    first_sounds: list[float] = field(default_factory=list)
    num_refused: int = 0
    seconds_spoken: float = 0.0

    def talk(
        self, url: str, num_turns: int, after: Callable[[int], None] = lambda turn: None
    ) -> "User":
        client = Client(url, verbose=False)
        for turn in range(num_turns):
            self._turn(client, TEXTS[(self.number + turn) % len(TEXTS)], 1000 * self.number + turn)
            after(turn + 1)
        client.close()
        return self

    def _turn(self, client: Client, text: str, seed: int) -> None:
        wavs: list[str] = []
        started, first = time.perf_counter(), 0.0
        while not wavs:
            try:
                job = client.submit(text=text, seed=seed, conversation="load", api_name="/speak")
                for _, wav in job:
                    first = first or time.perf_counter() - started
                    wavs.append(wav)
                job.result()
            except Exception as error:  # httpx's and gradio_client's have no common type
                if BUSY not in str(error) or wavs:
                    raise
                self.num_refused += 1
                time.sleep(BUSY_SECONDS)  # as its user would, who was told to wait
        self.first_sounds.append(first)
        samples, sample_rate = soundfile.read(wavs[-1], dtype="int16")
        self.replies.append(samples)
        self.seconds_spoken += len(samples) / sample_rate


def all_at_once(url: str, num_users: int, num_turns: int) -> list[User]:
    with ThreadPoolExecutor(num_users) as pool:
        return list(pool.map(lambda number: User(number).talk(url, num_turns), range(num_users)))


def num_different(server: Server, users: list[User], num_turns: int) -> int:
    """Replies that are not those of the same conversations had alone."""
    count = 0
    for user in users:
        alone = User(user.number).talk(server.url, num_turns)
        pairs = zip(user.replies, alone.replies, strict=True)
        count += sum(not np.array_equal(*pair) for pair in pairs)
    return count


def memory_over_turns(server: Server, num_turns: int) -> dict[str, int]:
    """The page's resident bytes in one long conversation."""
    user, memory = User(0), {}

    def note(turn: int) -> None:
        if turn in (EARLY_TURN, num_turns):
            memory[f"server_rss_bytes_after_{turn}_turns"] = server.memory

    user.talk(server.url, num_turns, note)
    return memory


def measure(server: Server, options: argparse.Namespace) -> dict[str, object]:
    User(0).talk(server.url, 1)  # the first user's reply is slower
    before, started = server.memory, time.perf_counter()
    users = all_at_once(server.url, options.users, options.turns)
    seconds = time.perf_counter() - started
    after, num_files = server.memory, server.num_files
    firsts = [first for user in users for first in user.first_sounds]
    spoken = sum(user.seconds_spoken for user in users)
    figures: dict[str, object] = {
        "users": options.users,
        "turns": options.turns,
        "replies": sum(len(user.replies) for user in users),
        "refused_and_asked_again": sum(user.num_refused for user in users),
        "first_sound_seconds_p50": statistics.median(firsts),
        "first_sound_seconds_p95": float(np.percentile(firsts, 95)),
        "speech_seconds_per_second": spoken / seconds,
        "server_rss_bytes_before": before,
        "server_rss_bytes_after": after,
        "server_files": num_files,
    }
    figures["replies_that_differ_alone"] = num_different(server, users, options.turns)
    figures |= memory_over_turns(server, options.long_turns)
    if options.tabs:
        for number in range(options.tabs):
            User(number).talk(server.url, 1)
            if number == min(20, options.tabs) - 1:
                figures["server_rss_bytes_after_20_tabs"] = server.memory
        figures["server_rss_bytes_after_all_tabs"] = server.memory
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--turns", type=int, default=5, help="of each user")
    parser.add_argument("--long-turns", type=int, default=200, help="of the long conversation")
    parser.add_argument("--tabs", type=int, default=0, help="users who come and go one by one")
    parser.add_argument("--reply-seconds", type=float, default=4.0, help="the longest reply")
    parser.add_argument("--shape", default="tiny", help="tiny or qwen2-0.5b")
    options = parser.parse_args()
    limits = [f"--reply-seconds={options.reply_seconds}", "--linger-seconds=5"]
    limits += ["--max-sessions=256", "--user-requests=100000", "--address-requests=1000000"]
    with checkpoint_folder(options.shape) as folder, served(folder, limits) as server:
        figures = measure(server, options)
    report("load", figures)
    if figures["replies_that_differ_alone"]:
        sys.exit("replies differ from those of the same conversations had alone")


if __name__ == "__main__":
    main()
