"""Reaching the daemon: what every client of a command is told, and waiting until it is ready."""

from __future__ import annotations

from argparse import Namespace
from typing import TypedDict

from vestal import AdminClient, Client, DaemonNotStarted, EmbedClient, Progress, __version__
from vestal.cli.parser import Parser, seconds
from vestal.cli.terminal import Screen

__all__ = ["add_wait", "admin", "at", "reach"]

_PATIENCE = "5m"
"""How long a bare `--wait` waits: as long as a daemon may load, by its default configuration."""


class At(TypedDict):
    """What each client is made with."""

    runtime_dir: str | None
    client: str


def at(args: Namespace) -> At:
    """Where the daemon is, and the name under which operators see this command."""
    return At(runtime_dir=args.runtime_dir, client=f"vestal-cli/{__version__}")


def admin(args: Namespace) -> AdminClient:
    """A client of `admin.sock`."""
    return AdminClient(**at(args))


def add_wait(parser: Parser) -> None:
    """`--wait[=SECONDS]` and `--autostart`."""
    parser.add_optional_value(
        "--wait",
        alone=_PATIENCE,
        metavar="SECONDS",
        kind=seconds,
        help=f"wait for the daemon to start and load its models (alone: {_PATIENCE}); else say so and exit 69",
    )
    parser.add_argument("--autostart", action="store_true", help="start the daemon if none runs, and wait for it")


def reach(client: Client | EmbedClient, args: Namespace, screen: Screen) -> None:
    """Connect; with `--wait`, keep trying for so many seconds, and show how far loading is. What was started on the
    way is said, as it stays, even where nobody waits for it any longer."""
    wait = seconds(_PATIENCE) if args.wait is None and args.autostart else args.wait
    if wait is None:
        client.connect()
        return
    stays = True
    try:
        client.wait_ready(wait, lambda progress: screen.status(_shown(progress)))
    except DaemonNotStarted:
        stays = False
        raise
    finally:
        screen.erase()
        if stays and client.started_log is not None:
            screen.note(f"vestal: started vestald, which stays; its log is {client.started_log}, `vestal stop` ends it")


def _shown(progress: Progress) -> str:
    percent = progress.percent
    return str(progress) if percent is None else f"{percent:3.0f} %  {progress}"
