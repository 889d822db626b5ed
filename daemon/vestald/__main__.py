"""`vestald`: read the configuration, run the daemon, exit with a code that tells the truth."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from vestal.errors import VestalError
from vestald import logs
from vestald.app import App
from vestald.config import Config, Sources
from vestald.config.flags import parse
from vestald.failures import EX_INTERNAL, BackendAbandoned, Failure
from vestald.secrecy import keep_memory_private

__all__ = ["main"]

_LAST_TURN = 0.2  # seconds that tasks of adapters have to end in once the daemon's life is over


def main(argv: list[str] | None = None) -> int:
    """Run until stopped; the process's exit code."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["install-service"]:
        from vestald.service import install_service

        return _told(lambda: install_service(words[1:]))
    if words[:1] == ["doctor"]:
        from vestald.doctor.command import main as doctor

        return _told(lambda: doctor(words[1:]))
    if words[:1] == ["config"]:
        from vestald.config.command import main as config

        return _told(lambda: config(words[1:]))
    sources = parse(words)
    logs.configure("info", sys.stderr)
    return _told(lambda: _serve(sources))


def _serve(sources: Sources) -> int:
    keep_memory_private()
    config = sources.read()
    logs.set_level(config.daemon.log_level)
    for warning in config.warnings:
        logging.getLogger("vestald").warning(warning)
    return _run(config, sources)


def _told(deed: Callable[[], int]) -> int:
    """The exit code of a deed, and for what goes wrong in it a line."""
    try:
        return deed()
    except Failure as failure:
        return _give_up(str(failure), failure.exit_code)
    except VestalError as error:
        return _give_up(str(error), EX_INTERNAL)
    except Exception as fault:  # whatever it is, the exit code says whose fault it is, and one line what to do
        logging.getLogger("vestald").exception("a fault in the daemon")
        return _give_up(f"{type(fault).__name__} (a bug: please report the lines above)", EX_INTERNAL)


def _run(config: Config, sources: Sources) -> int:
    import uvloop

    async def live() -> int:
        asyncio.get_running_loop().set_exception_handler(logs.report_fault)
        code = 0
        try:
            await App(config, sources).run()
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
