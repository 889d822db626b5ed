"""`vestald`: read the configuration, run the daemon, exit with a code that tells the truth."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

import msgspec

from vestal.errors import VestalError
from vestald import __version__
from vestald.app import App
from vestald.config import Config, load
from vestald.failures import EX_INTERNAL, BackendAbandoned, Failure

__all__ = ["main"]

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
    logging.basicConfig(
        level=args.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)-7s %(message)s",
        datefmt="%H:%M:%S",
    )
    try:
        return _run(_configure(args))
    except Failure as failure:
        return _give_up(str(failure), failure.exit_code)
    except VestalError as error:
        return _give_up(str(error), EX_INTERNAL)
    except Exception as fault:  # whatever it is, the exit code says whose fault it is, and one line what to do
        logging.getLogger("vestald").exception("a fault in the daemon")
        return _give_up(f"{type(fault).__name__}: {fault} (a bug: please report the lines above)", EX_INTERNAL)


def _configure(args: argparse.Namespace) -> Config:
    config = load(args.config)
    if args.runtime_dir:
        config = msgspec.structs.replace(
            config, daemon=msgspec.structs.replace(config.daemon, runtime_dir=args.runtime_dir)
        )
    return config


def _run(config: Config) -> int:
    import uvloop

    async def live() -> None:
        try:
            await App(config).run()
        except BackendAbandoned as failure:  # what it left behind must not hold up the exit
            _give_up(str(failure), failure.exit_code)
            logging.shutdown()
            os._exit(failure.exit_code)

    uvloop.run(live())
    return 0


def _give_up(message: str, code: int) -> int:
    sys.stderr.write(f"vestald: {' '.join(message.splitlines())}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
