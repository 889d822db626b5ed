"""`vestald`: read the configuration, run the daemon, exit with a code that tells the truth."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import threading
from pathlib import Path
from typing import NoReturn

import msgspec

from vestal.errors import VestalError
from vestald import __version__, logs
from vestald.app import App
from vestald.config import Config, load
from vestald.failures import EX_INTERNAL, BackendAbandoned, Failure
from vestald.secrecy import keep_memory_private

__all__ = ["main"]

_LAST_TURN = 0.2  # seconds that tasks of adapters have to end in once the daemon's life is over

_EPILOG = """exit codes: 0 stopped as asked; 69 a backend failed to become ready; 70 internal;
75 another instance owns the runtime directory; 78 bad configuration"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vestald",
        description="Keep language models warm for every app on this machine, over Unix sockets.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="TOML file (default: $VESTAL_CONFIG, else ~/.config/vestal/vestald.toml)",
    )
    parser.add_argument(
        "--runtime-dir",
        metavar="DIR",
        help="directory of the sockets (default: $VESTAL_RUNTIME_DIR, else $XDG_RUNTIME_DIR/vestal)",
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.add_argument("--version", action="version", version=f"vestald {__version__}")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run until stopped; the process's exit code."""
    args = _parser().parse_args(argv)
    logs.configure(args.log_level, sys.stderr)
    try:
        keep_memory_private()
        return _run(_configure(args))
    except Failure as failure:
        return _give_up(str(failure), failure.exit_code)
    except VestalError as error:
        return _give_up(str(error), EX_INTERNAL)
    except Exception as fault:  # whatever it is, the exit code says whose fault it is, and one line what to do
        logging.getLogger("vestald").exception("a fault in the daemon")
        return _give_up(f"{type(fault).__name__} (a bug: please report the lines above)", EX_INTERNAL)


def _configure(args: argparse.Namespace) -> Config:
    config = load(args.config)
    if args.runtime_dir:
        config = msgspec.structs.replace(
            config, daemon=msgspec.structs.replace(config.daemon, runtime_dir=args.runtime_dir)
        )
    return config


def _run(config: Config) -> int:
    import uvloop

    async def live() -> int:
        asyncio.get_running_loop().set_exception_handler(logs.report_fault)
        code = 0
        try:
            await App(config).run()
        except Failure as failure:
            code = _give_up(str(failure), failure.exit_code)
            if isinstance(failure, BackendAbandoned):
                _exit_now(code)
        if left := await _still_running():
            what = f"{left} tasks of adapters would not end and were left behind"
            _exit_now(code or _give_up(what, EX_INTERNAL))
        if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
            _exit_now(code)  # the interpreter would wait for a thread that nobody has promised will end
        return code

    return uvloop.run(live())


async def _still_running() -> int:
    """How many tasks go on though they were cancelled: the event loop would wait for them for ever."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if not others:
        return 0
    _, left = await asyncio.wait(others, timeout=_LAST_TURN)
    return len(left)


def _exit_now(code: int) -> NoReturn:
    """End the process without waiting for what an adapter left behind."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _give_up(message: str, code: int) -> int:
    said = logs.bounded(" ".join(message.splitlines()))
    sys.stderr.write(f"vestald: {said if said.isascii() and said.isprintable() else ascii(said)[1:-1]}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
