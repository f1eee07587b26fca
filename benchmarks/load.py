"""Many users at once: python -m benchmarks.load --users 16 --turns 20

The page runs in a process of its own. One user has a conversation, then four at once, then all;
each asks as soon as the last reply is there. Another one, and four more, hear each reply before
they ask again, as people do. Replies are whole, unless --reply-seconds ends them: random weights
may speak without an end. Every reply must be, sample by sample, what the model alone gives with the
same seed. Then one user has a long conversation, and tabs are opened, spoken in and closed, in
which memory must not grow.
"""

import argparse
import dataclasses
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from generate import num_frames
from models.audio import to_pcm16
from models.contract import ReplyOptions, SpeechModel
from models.load import load_model

from .common import checkpoint_folder, report
from .visitor import READ_SECONDS, Clock, Spoken, TimeIsUpError, Visitor, told_bars

ROOT = Path(__file__).parents[1]
AT_ONCE = 4  # replies that the page makes at the same time
FEW_TURNS, LISTENED_TURNS = 10, 20  # of each user in the smaller rounds
EARLY = 20  # turns, or tabs, after which memory has reached its size
CHUNK_FRAMES = 1024  # as of the page's API
LINGER_SECONDS = 12  # that a conversation outlives its last turn: longer than one listens or waits
STOP_SECONDS, GONE_SECONDS = 30, 40
LAST_LINES = 20  # of the page's log, shown when it fails
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
    def cpu_seconds(self) -> float:
        """Of processors' time that it took so far."""
        user, system = Path(f"/proc/{self.process.pid}/stat").read_text().split()[13:15]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    @property
    def num_files(self) -> int:
        """Sounds that are kept."""
        return len(list(self.folder.glob("westlake-omni-*/*/*.wav")))


@contextmanager
def served(options: list[str], clock: Clock) -> Iterator[Server]:
    with socket.socket() as trial, tempfile.TemporaryDirectory() as folder:
        trial.bind(("127.0.0.1", 0))
        port = str(trial.getsockname()[1])
        trial.close()
        log = Path(folder) / "log"
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "app.py", "--port", port, *options],
                cwd=ROOT,
                env={**os.environ, "TMPDIR": folder},
                stdout=file,
                stderr=file,
            )
        url = f"http://127.0.0.1:{port}/"
        try:
            clock.begin("the page starts", 1)
            _wait(process, f"{url}healthz", clock)
            yield Server(process, url, Path(folder))
        except BaseException:
            print(*log.read_text().splitlines()[-LAST_LINES:], sep="\n", file=sys.stderr)
            raise
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen, url: str, clock: Clock) -> None:
    while process.poll() is None:
        clock.check()
        with suppress(OSError):
            urllib.request.urlopen(url, timeout=READ_SECONDS)
            return
        time.sleep(0.1)
    sys.exit("the page did not start")


@dataclass
class User:
    """Somebody who talks: the replies as they came, after which seconds."""

    number: int
    replies: list[Spoken] = field(default_factory=list)

    def talk(self, url: str, num_turns: int, clock: Clock, listens: bool = False) -> "User":
        """Have a conversation; with `listens`, each reply is heard before the next turn."""
        visitor = Visitor(url, clock)
        for turn in range(num_turns):
            spoken = visitor.speak(*self.asked(turn), "load")
            self.replies.append(spoken)
            clock.count()
            if listens:
                time.sleep(max(0.0, spoken.speech_seconds - spoken.seconds + spoken.first))
        return self

    def asked(self, turn: int) -> tuple[str, int]:
        """What is said in a turn, and the seed."""
        return TEXTS[(self.number + turn) % len(TEXTS)], 1000 * self.number + turn


@dataclass
class Round:
    """Users who talk at the same time."""

    users: list[User]
    seconds: float
    cpu_seconds: float  # of the page's process

    @property
    def replies(self) -> list[Spoken]:
        return [reply for user in self.users for reply in user.replies]

    def first(self, percent: float) -> float:
        return float(np.percentile([reply.first for reply in self.replies], percent))

    @property
    def turn_seconds(self) -> float:
        return statistics.median(reply.seconds for reply in self.replies)


def all_at_once(
    server: Server, numbers: range, num_turns: int, clock: Clock, listens: bool = False
) -> Round:
    name = f"{len(numbers)} users, {num_turns} turns each" + (", heard" if listens else "")
    clock.begin(name, len(numbers) * num_turns)
    started, taken = time.perf_counter(), server.cpu_seconds
    with ThreadPoolExecutor(len(numbers)) as pool:
        users = list(
            pool.map(lambda n: User(n).talk(server.url, num_turns, clock, listens), numbers)
        )
    return Round(users, time.perf_counter() - started, server.cpu_seconds - taken)


def num_different(model: SpeechModel, users: list[User], max_frames: int, clock: Clock) -> int:
    """Replies that are not those of the model alone, in the same conversations."""
    clock.begin("the same with the model alone", sum(len(user.replies) for user in users))
    count = 0
    for user in users:
        conversation = model.new_conversation()
        for turn, reply in enumerate(user.replies):
            clock.check()
            text, seed = user.asked(turn)
            said = conversation.begin_turn(text)
            said.finish()
            sampling = dataclasses.replace(model.sampling, seed=seed)
            asked = ReplyOptions(
                sampling=sampling, max_frames=max_frames, chunk_frames=CHUNK_FRAMES
            )
            chunks = conversation.reply(said, asked)
            alone = np.concatenate([to_pcm16(chunk.new_audio) for chunk in chunks])
            count += not np.array_equal(reply.samples, alone)
            clock.count()
    return count


def memory_over_turns(server: Server, num_turns: int, clock: Clock) -> dict[str, int]:
    """The page's resident bytes in one long conversation."""
    clock.begin("a long conversation", num_turns)
    visitor, memory = Visitor(server.url, clock), {}
    for turn in range(1, num_turns + 1):
        visitor.speak(TEXTS[turn % len(TEXTS)], turn, "long")
        clock.count()
        if turn in (EARLY, num_turns):
            memory[f"rss_bytes_after_{turn}_turns"] = server.memory
    return memory


def memory_over_tabs(server: Server, num_tabs: int, clock: Clock) -> dict[str, int]:
    """The page's resident bytes while visitors come, say one line and leave."""
    clock.begin("tabs that are opened and closed", num_tabs)
    memory = {}
    for tab in range(1, num_tabs + 1):
        visitor = Visitor(server.url, clock)
        for path in ("/", "/config"):
            visitor.get("GET", path).read()
        visitor.speak(TEXTS[tab % len(TEXTS)], tab, "tab")
        clock.count()
        if tab in (EARLY, num_tabs):
            memory[f"rss_bytes_after_{tab}_tabs"] = server.memory
    return memory


def files_left(server: Server) -> int:
    """Sounds that are still there some time after all have left."""
    end = time.monotonic() + GONE_SECONDS
    while server.num_files and time.monotonic() < end:
        time.sleep(1)
    return server.num_files


def first_by_queue(four: Round, num_users: int) -> float:
    """Seconds to first sound that the queue's arithmetic allows the last of many who ask at once:
    the rounds of replies before its own, each as long as when so many are made at once."""
    rounds_before = math.ceil(num_users / AT_ONCE) - 1
    return rounds_before * four.turn_seconds + four.first(50)


@dataclass
class Seen:
    """What was measured, and of what was to be reached: what was seen, and what is allowed."""

    figures: dict[str, object] = field(default_factory=dict)
    bars: dict[str, tuple[float, float]] = field(default_factory=dict)

    def note_times(self, options: argparse.Namespace, rounds: dict[str, Round]) -> None:
        for name, group in rounds.items():
            self.figures[f"first_sound_seconds_p50_of_{name}"] = group.first(50)
            self.figures[f"first_sound_seconds_p95_of_{name}"] = group.first(95)
            self.figures[f"turn_seconds_p50_of_{name}"] = group.turn_seconds
            self.figures[f"cpu_seconds_a_reply_of_{name}"] = group.cpu_seconds / len(group.replies)
        spoken = sum(reply.speech_seconds for reply in rounds["all"].replies)
        self.figures["speech_seconds_per_second_of_all"] = spoken / rounds["all"].seconds
        refused = sum(reply.num_refused for reply in rounds["all"].replies)
        self.figures["refused_and_asked_again"] = refused
        allowed = first_by_queue(rounds["4"], options.users)
        name = f"p95 of first sound of {options.users} over the queue's arithmetic"
        self.bars[name] = rounds["all"].first(95) / allowed, 2
        users = (rounds[name].users[0] for name in ("4_who_listen", "1_who_listens"))
        pairs = zip(*(user.replies for user in users), strict=True)  # the same ones
        over = statistics.median(beside.seconds / alone.seconds for beside, alone in pairs)
        self.bars["a turn of 4 who listen over the same of one alone"] = over, 1.5

    def note_memory(self, what: str, memory: dict[str, int]) -> None:
        self.figures |= memory
        if len(memory) == 2:
            early, late = memory.values()
            self.bars[f"memory's growth over {what}"] = late / early - 1, 0.05

    def note_none(self, what: str, number: int) -> None:
        self.figures[what.replace(" ", "_")] = number
        self.bars[what] = number, 0


def measure(server: Server, model: SpeechModel, options: argparse.Namespace, clock: Clock) -> Seen:
    seen, few = Seen(), min(FEW_TURNS, options.turns)
    heard = min(LISTENED_TURNS, options.turns)
    all_at_once(server, range(1), 1, clock)  # the first user's reply is slower
    rounds = {
        "1": all_at_once(server, range(1, 2), few, clock),
        "4": all_at_once(server, range(10, 10 + AT_ONCE), few, clock),
        "1_who_listens": all_at_once(server, range(20, 21), heard, clock, listens=True),
        "4_who_listen": all_at_once(server, range(20, 20 + AT_ONCE), heard, clock, listens=True),
        "all": all_at_once(server, range(30, 30 + options.users), options.turns, clock),
    }
    seen.figures |= {"users": options.users, "turns": options.turns}
    seen.note_times(options, rounds)
    seen.figures["server_rss_bytes"] = server.memory
    seen.note_memory("turns", memory_over_turns(server, options.long_turns, clock))
    seen.note_memory("tabs", memory_over_tabs(server, options.tabs, clock))
    users = [user for group in rounds.values() for user in group.users]
    seen.figures["replies_compared"] = sum(len(user.replies) for user in users)
    longest = num_frames(model, options.reply_seconds)
    different = num_different(model, users, longest, clock)
    seen.note_none("replies that differ from the model alone", different)
    seen.note_none("files left", files_left(server))
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--turns", type=int, default=20, help="of each user")
    parser.add_argument("--long-turns", type=int, default=200, help="of the long conversation")
    parser.add_argument("--tabs", type=int, default=100, help="opened and closed one by one")
    parser.add_argument("--reply-seconds", type=float, default=30.0, help="the longest reply")
    parser.add_argument("--shape", default="tiny", help="tiny or qwen2-0.5b")
    parser.add_argument("--minutes", type=float, default=12.0, help="after which it gives up")
    options = parser.parse_args()
    clock = Clock(options.minutes)
    with checkpoint_folder(options.shape) as folder:
        clock.begin("the model is loaded", 1)
        model = load_model(folder)
        model.warm_up()
        given = [f"--checkpoint={folder}", f"--dtype={model.dtype}", f"--max-replies={AT_ONCE}"]
        given += [f"--reply-seconds={options.reply_seconds}", f"--linger-seconds={LINGER_SECONDS}"]
        given += [f"--max-sessions={4 * options.users + 64}", "--upload-seconds=20"]
        given += ["--user-requests=100000", "--address-requests=1000000"]
        try:
            with served(given, clock) as server:
                seen = measure(server, model, options, clock)
        except (TimeIsUpError, ValueError, OSError) as error:
            sys.exit(f"a reply is lost, or time is up: {error}")
    is_reached = told_bars(seen.bars)
    report("load", seen.figures)
    if not is_reached:
        sys.exit("a bar is missed")


if __name__ == "__main__":
    main()
