"""The whole path, from nothing to a streamed answer, in one program: `make demo`.

It fetches two small models, starts a private `vestald`, shows that nobody can connect before it is ready, lets
SmolLM2 answer on both versions of the protocol, compares four sentences with MiniLM, and stops the daemon. What
each step needs of the client library stands in the step's function, so it can be read as a tour of it.

`--echo` does the same with the echo backend: no models, no network, two seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import monotonic, sleep

try:
    import vestal
except ImportError:
    sys.exit("demo: Vestal is not installed for this Python; the next step: make demo")

from vestal.cli.embed import similarity_lines
from vestal.cli.pull import PullProgress
from vestal.cli.terminal import Screen, columns, escaped_answer
from vestal.cli.wording import bar, count, elapsed, megabytes
from vestal.models import CATALOG, Store, pull

LLAMACPP = """
[[backend]]
name = "chat"
adapter = "llamacpp"
model = "smollm2-135m"
slots = 1
context_length = 2048

[[backend]]
name = "vectors"
adapter = "llamacpp"
model = "minilm-l6-v2"
"""
ECHO = """
[[backend]]
name = "chat"
adapter = "echo"
ready_delay = "1s"
token_delay = "20ms"

[[backend]]
name = "vectors"
adapter = "echo"
embed = true
"""
QUESTION = "Why is the sky blue? Answer in two sentences."
ORDER = "Write two sentences about a fire that never goes out."
SENTENCES = (
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A young woman holds an infant in her arms.",
)
WIDTH = min(columns(sys.stdout) or 80, 80) - 1


class Failed(Exception):
    """The demo cannot go on; the message says why and what to do."""


# --- the daemon -------------------------------------------------------------------------------------------------------


class Daemon:
    """A private vestald: its own directory, its own configuration, and its standard error in a file."""

    def __init__(self, backends: str) -> None:
        # The directory's path is short on purpose: that of a Unix socket may have 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="vestal-demo-", dir="/tmp"))
        config = self.directory / "vestald.toml"
        audit = f'[audit]\ndirectory = "{self.directory}/audit"\n'
        config.write_text(f"{audit}{backends}")
        with (self.directory / "stderr").open("wb") as log:
            # In a session of its own, so that Ctrl-C reaches this program only, which then stops the daemon.
            command = [sys.executable, "-m", "vestald", "--config", str(config), "--runtime-dir", str(self.directory)]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True)

    def admin(self) -> vestal.AdminClient:
        """A client of `admin.sock`, which is there a moment after the start, and before anything is loaded."""
        client = vestal.AdminClient(runtime_dir=self.directory)
        while True:
            try:
                client.connect()
                return client
            except (vestal.DaemonNotRunning, vestal.ConnectionLost):  # not there yet, or already ending
                self.check_alive()
                sleep(0.02)

    def events(self, admin: vestal.AdminClient) -> Iterator[vestal.Snapshot | vestal.Event]:
        """What the daemon tells operators, live; raises `Failed` if it ends instead."""
        try:
            with admin.subscribe() as events:
                yield from events
        except vestal.ConnectionLost:
            self.process.wait(20)
        self.check_alive()

    def check_alive(self) -> None:
        """Raise `Failed` if the process has ended."""
        if (code := self.process.poll()) is not None:
            raise Failed(f"vestald ended with exit code {code}; above it says why, and what helps")

    def last_words(self) -> list[str]:
        return (self.directory / "stderr").read_text(errors="replace").splitlines()[-8:]

    def end(self) -> None:
        """Whatever happened, leave no process and no directory behind."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


# --- the steps --------------------------------------------------------------------------------------------------------


def fetch_models() -> None:
    """Both models of the catalog, into the user's own store; what is there is not fetched again."""
    store = Store()
    for name in CATALOG:
        progress = PullProgress(SCREEN, f"   {name}")
        try:
            pulled = pull(name, store, progress)
        finally:
            progress.close()
        say(f"{name}: {'already there' if pulled.already else 'there now'}, {megabytes(pulled.model.size)}")


def watch_loading(daemon: Daemon) -> None:
    """Live from the admin socket; and until the daemon says ready, nobody gets in."""
    percent: dict[str, float] = {}
    refusals, last = 0, 0.0
    with daemon.admin() as admin:
        for event in daemon.events(admin):
            if is_ready(event):
                break
            show_percent(percent, event)
            if monotonic() - last > 0.1:
                last = monotonic()
                refusals += is_refused(daemon.directory / "infer.sock", first=not refusals)
    began = monotonic()
    with vestal.Client(runtime_dir=daemon.directory) as client:
        client.connect()
        took = elapsed(monotonic() - began)
    say(f"ready: {count(refusals, 'connect')} failed until now, and the next succeeds, in {took}")


def is_ready(event: vestal.Snapshot | vestal.Event) -> bool:
    """Whether it says that the daemon is ready."""
    if isinstance(event, vestal.Snapshot):
        return event.status.state == "ready"
    return event.kind == "daemon_state" and event.data["state"] == "ready"


def is_refused(infer: Path, *, first: bool) -> bool:
    """Connecting fails while the models load: infer.sock does not exist until all of them are ready."""
    if infer.exists():
        return False  # it became ready between the event and now
    try:
        vestal.Client(socket=infer).connect()
    except vestal.DaemonNotRunning:
        return False  # it has ended since the event, and the next one will say so
    except vestal.DaemonNotReady as error:
        if first:
            say("infer.sock does not exist yet, and connecting fails:")
            say(f"  {error.message}")
        return True
    return False


def show_percent(percent: dict[str, float], event: vestal.Snapshot | vestal.Event) -> None:
    """Keep `percent` of each backend up to date, and draw it."""
    if isinstance(event, vestal.Snapshot):
        percent.update({backend.name: backend.percent or 0.0 for backend in event.status.backends})
    elif event.kind == "backend_loading":
        percent[event.data["backend"]] = event.data["percent"]
    elif event.kind == "backend_state" and event.data["state"] == "ready":
        percent[event.data["backend"]] = 100.0
        say(f"{event.data['backend']}: loaded")
    each = "  ".join(f"{name} {done:3.0f} %" for name, done in percent.items())
    SCREEN.status(f"   {bar(sum(percent.values()) / max(len(percent), 1), 20, SCREEN.encoding)}  {each}")


def answer_v1(daemon: Daemon) -> None:
    """Version 1 of the protocol is text: `stream` yields its pieces."""
    say(f"> {QUESTION}")
    with (
        vestal.Client(runtime_dir=daemon.directory, versions=[1]) as client,
        client.stream(QUESTION, max_tokens=60, temperature=0) as answer,
    ):
        write_wrapped(answer)
    say(summary_of(answer.result))


def answer_v2(daemon: Daemon) -> None:
    """Version 2 is typed blocks: `events` yields the frames, `result.content` has the blocks."""
    say(f"> {ORDER}")
    with (
        vestal.Client(runtime_dir=daemon.directory, versions=[2]) as client,
        client.events(ORDER, system="You are brief.", max_tokens=60, temperature=0.7, seed=7) as events,
    ):
        write_wrapped(event.delta for event in events if isinstance(event, vestal.Text))
    blocks = ", ".join(type(block).__name__ for block in events.result.content)
    say(f"{summary_of(events.result)} ({blocks})")


def compare_sentences(daemon: Daemon) -> None:
    """Vectors of four sentences, and how near they are to each other."""
    with vestal.EmbedClient(runtime_dir=daemon.directory) as client:
        vectors = client.embed(SENTENCES)
    for index, sentence in enumerate(SENTENCES):
        say(f"{index}  {sentence}")
    for line in similarity_lines(vectors.vectors, WIDTH - 3):
        print(f"   {line}")


def show_status(daemon: Daemon) -> None:
    """What `vestal status` says; the command is a client like any other."""
    command = [sys.executable, "-m", "vestal.cli", "--runtime-dir", str(daemon.directory), "status"]
    for line in subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines():
        say(line)


def stop(daemon: Daemon) -> None:
    """Gracefully: what runs may end, the sockets go away, and the exit code tells the truth."""
    with vestal.AdminClient(runtime_dir=daemon.directory) as admin:
        admin.stop()
    code = daemon.process.wait(30)
    left = sorted(path.name for path in daemon.directory.glob("*.sock"))
    if code or left:
        raise Failed(f"vestald ended with exit code {code} and left {', '.join(left) or 'no sockets'}")
    say("exit code 0, and its sockets are gone")


STEPS = (
    ("a private vestald loads its models", watch_loading),
    ("an answer, on version 1 of the protocol", answer_v1),
    ("an answer, on version 2", answer_v2),
    ("vectors, and the cosine of each pair", compare_sentences),
    ("vestal status", show_status),
    ("the daemon stops gracefully", stop),
)


# --- telling it -------------------------------------------------------------------------------------------------------

SCREEN = Screen(sys.stdout)


def say(text: str) -> None:
    """A line, or as many as it takes, indented by three."""
    SCREEN.erase()
    margin = " " * (3 + len(text) - len(text.lstrip()))
    for line in textwrap.wrap(text.strip(), WIDTH, initial_indent=margin, subsequent_indent=margin) or [""]:
        print(line, flush=True)


def write_wrapped(pieces: Iterable[str]) -> None:
    """Pieces as they come, wrapped between words, indented by three."""
    column, word = 0, ""
    print("   ", end="")
    try:
        for character in (character for piece in pieces for character in escaped_answer(piece)):
            if character.isspace():
                column, word = write_word(word, column), ""
            else:
                word += character
        write_word(word, column)
    finally:
        print(flush=True)


def write_word(word: str, column: int) -> int:
    """Write a word behind `column` characters of a line, or on the next; the column after it."""
    if not word:
        return column
    if column and column + 1 + len(word) > WIDTH - 3:
        print("\n   ", end="")
        column = 0
    print(f" {word}" if column else word, end="", flush=True)
    return column + bool(column) + len(word)


def summary_of(result: vestal.Result) -> str:
    """`60 tokens at 120 tok/s, the first after 85 ms`."""
    tokens, milliseconds = result.usage.output_tokens, result.timings.decode_ms
    rate = f" at {1000 * (tokens - 1) / milliseconds:.0f} tok/s" if tokens > 1 and milliseconds else ""
    return f"{count(tokens, 'token')}{rate}, the first after {elapsed(result.timings.first_token_ms / 1000)}"


def show(*, echo: bool) -> dict[str, float]:
    """All steps, in order; the seconds each took."""
    began = monotonic()
    times: dict[str, float] = {}
    if not echo:
        print("1  two small models", flush=True)
        fetch_models()
        times["two small models"] = monotonic() - began
    daemon = Daemon(ECHO if echo else LLAMACPP)
    try:
        for title, step in STEPS:
            began = monotonic()
            print(f"{chr(10) if times else ''}{len(times) + 1}  {title}", flush=True)
            step(daemon)
            times[title] = monotonic() - began
    except (Failed, vestal.VestalError, subprocess.SubprocessError):
        SCREEN.erase()
        for line in daemon.last_words():
            print(f"   vestald: {line}", file=sys.stderr)
        raise
    finally:
        daemon.end()
    return times


def main() -> int:
    """Run the demo; 0 if every step did what it should."""
    parser = argparse.ArgumentParser(description="Fetch two small models, start a private vestald, watch it answer.")
    parser.add_argument("--echo", action="store_true", help="use the echo backend: no models, no network")
    args = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):  # whoever ends the demo ends its daemon
        signal.signal(number, signal.default_int_handler)
    try:
        times = show(echo=args.echo)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
        return 141
    except KeyboardInterrupt:
        print("\ndemo: interrupted; the private daemon has been stopped", file=sys.stderr)
        return 130
    except (Failed, vestal.VestalError, OSError, subprocess.SubprocessError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print("\nAll of it worked:")
    for title, seconds in times.items():
        print(f"   {elapsed(seconds):>8}  {title}")
    here = "" if shutil.which("vestald") else f"{os.path.relpath(Path(sys.executable).parent)}/"
    print(f'\nNow yours:\n   {here}vestald &\n   {here}vestal run --wait "Hello!"')
    return 0


if __name__ == "__main__":
    sys.exit(main())
