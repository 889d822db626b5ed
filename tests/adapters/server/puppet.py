"""A server that does what its prompt says, and at its start what `--at-start` says. A program without our imports.

It answers the openai API's listing and chat: words of the prompt, one event each; some words are deeds (`_DEEDS`).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


def tried(what: Any) -> str:
    try:
        what()
    except OSError as exc:
        return type(exc).__name__
    return "done"


def forbidden() -> str:
    """What it may and may not, as JSON."""

    def connect() -> None:
        socket.create_connection(("127.0.0.1", int(os.environ["PUPPET_NEIGHBOUR"])), timeout=5).close()

    def listen() -> None:
        socket.create_server(("127.0.0.1", 0)).close()

    return json.dumps(
        {
            "read": tried(lambda: Path(os.environ["PUPPET_FILE"]).read_text()),
            "write": tried(lambda: Path(os.environ["PUPPET_FILE"]).with_name("new").write_text("x")),
            "run": tried(lambda: subprocess.run(["/bin/ls"], stdout=subprocess.DEVNULL, check=True)),
            "connect": tried(connect),
            "listen": tried(listen),
            "signal": tried(lambda: os.kill(os.getppid(), 0)),
        }
    )


def offspring() -> str:
    """The pid of a process of its own."""
    return str(subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]).pid)


_DEEDS: dict[str, Callable[[], str]] = {
    "pid": lambda: str(os.getpid()),
    "environment": lambda: json.dumps(dict(os.environ)),
    "offspring": offspring,
    "forbidden": forbidden,
    "arguments": lambda: json.dumps(sys.argv),
}


class Puppet(BaseHTTPRequestHandler):
    refusals = 0

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def address_string(self) -> str:
        return "puppet"

    def do_GET(self) -> None:
        if self.path == "/health":
            if Puppet.refusals:
                Puppet.refusals -= 1
                self.reply(503, {"error": {"message": "Loading model"}})
            else:
                self.reply(200, {})
        elif self.headers.get("Authorization") != f"Bearer {os.environ.get('PUPPET_KEY')}":
            self.reply(401, {"error": {"message": "wrong key"}})
        elif self.path == "/v1/models":
            self.reply(200, {"data": [{"id": "small"}]})
        else:
            self.reply(404, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for word in body["messages"][-1]["content"].split():
            if word == "hold":
                self.say("held")
                threading.Event().wait()
            elif word == "freeze":
                self.say("freezing")
                os.kill(os.getpid(), signal.SIGSTOP)
            elif word == "linger":
                self.say("lingering")
                self.connection.shutdown(socket.SHUT_RDWR)
                time.sleep(1)  # as long as a process may take from its last word to its end
                os.abort()
            elif word == "abort":
                sys.stderr.write("GGML_ASSERT(x) failed\n")
                sys.stderr.flush()
                os.abort()
            else:
                self.say(_DEEDS[word]() if word in _DEEDS else f"{word} ")
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self.wfile.write(b"data: [DONE]\n\n")

    def say(self, text: str) -> None:
        self.event({"choices": [{"index": 0, "delta": {"content": text}}]})

    def event(self, data: Any) -> None:
        self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()

    def reply(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Quiet(socketserver.ThreadingMixIn):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked is gone: what it prints is for the tests to say."""


class Tcp(Quiet, socketserver.TCPServer):
    pass


class Unix(Quiet, socketserver.UnixStreamServer):
    pass


def at_start(deed: str) -> None:
    if deed == "fail":
        sys.stderr.write("bind: Address already in use\n")
        sys.exit(3)
    if deed == "flood":
        for _ in range(400):
            sys.stdout.write("x" * 65_535 + "\n")
        sys.stdout.write("end of the flood\n")
        sys.stdout.flush()
    if deed == "deaf":
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    if deed == "busy":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if deed == "slow":
        Puppet.refusals = 2
    if deed == "never":
        Puppet.refusals = 10**9
    if deed == "mute":
        signal.pause()
    if deed.startswith("once:"):  # the first of its kind serves, the later ones fail
        marker = Path(deed.removeprefix("once:"))
        if marker.exists():
            sys.exit(4)
        marker.touch()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--at-start", default="")
    parser.add_argument("--socket")
    parser.add_argument("--port", type=int)
    options, _ = parser.parse_known_args()
    at_start(options.at_start)
    server = Unix(options.socket, Puppet) if options.socket else Tcp(("127.0.0.1", options.port), Puppet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
