"""The entry point of the command `flaxfit`, and of scripts with options."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Union, cast

import tyro

from flaxfit import __version__
from flaxfit.arguments import unknown
from flaxfit.cli.options import COMMANDS, Common, DataCommand, named

_MODULES = {
    "predict": "models",
    "evaluate": "models",
    "show": "runs",
    "resume": "runs",
    "export": "runs",
    "list": "data",
    "describe": "data",
}
"""Where commands are that have no module of their own."""

_USAGE = (ValueError, TypeError, ImportError, LookupError, FileNotFoundError, FileExistsError)
_USAGE += (IsADirectoryError, NotADirectoryError, PermissionError)
"""Errors that say what is wrong with the input."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command `flaxfit`.

    Returns:
      0; 2 for wrong usage or bad input; 1 for any other error; 130 after Ctrl-C. The error is one message on standard error, and only
      with `--debug` a traceback.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(f"flaxfit {__version__}")
        return 0
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        sys.stderr.write(f"flaxfit: {unknown('command', arguments[0], COMMANDS)}\n")
        return 2
    kinds = [named(kind, name) for name, kind in COMMANDS.items()]
    try:
        command: Any = tyro.cli(
            cast(Any, Union[tuple(kinds)]),  # noqa: UP007
            args=arguments,
            prog="flaxfit",
            description="Train Flax models, and find out whether they overfit and which fix helps.",
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        )
    except BrokenPipeError:  # as under `flaxfit --help | head`
        sys.stderr.close()
        return 1
    if isinstance(command, DataCommand):
        command = command.command
    name = type(command).__name__.lower()
    return run(lambda: getattr(importlib.import_module(f"flaxfit.cli.{_MODULES.get(name, name)}"), name)(command), command)


def run(function: Callable[[], Any], options: Common) -> int:
    """Runs a command, and returns its exit status."""
    told: set[str] = set()

    def warn(message: Any, category: Any, *_: Any, **__: Any) -> None:
        text = str(message)
        if not options.quiet and text not in told and issubclass(category, UserWarning | RuntimeWarning):
            told.add(text)
            sys.stderr.write(f"Warning: {text}\n")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = warn
        try:
            function()
        except KeyboardInterrupt as error:
            sys.stderr.write(f"flaxfit: interrupted. {error}".rstrip() + "\n")
            return 130
        except BrokenPipeError:
            sys.stderr.close()  # the reader of the output has gone
            return 1
        except Exception as error:
            if options.debug:
                raise
            usage = isinstance(error, _USAGE)
            said = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
            if isinstance(error, OSError) and error.errno is not None and error.strerror:
                said = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
            hint = "" if usage else f" ({type(error).__name__}; --debug shows where)"
            sys.stderr.write(f"flaxfit: {said}{hint}\n")
            return 2 if usage else 1
    return 0


def script(main: Callable[[Any], object], config: type, description: str | None) -> None:
    """Runs the `main` function of a script with the options from its command line.

    If a file is missing or a download fails, the script ends with the error's message and status 1 instead of a traceback.

    Args:
      main: a function that takes the options.
      config: a dataclass of the options. Its fields have defaults, and their docstrings are shown by `--help`.
      description: the text at the top of `--help`, such as the docstring of the script.

    Example:
      >>> from dataclasses import dataclass
      >>> from unittest import mock
      >>> @dataclass
      ... class Config:
      ...     seeds: int = 5
      >>> with mock.patch("sys.argv", ["study.py", "--seeds", "3"]):
      ...     script(lambda config: print(config.seeds), Config, "A study.")
      3
    """
    try:
        main(tyro.cli(config, description=description))
    except OSError as error:
        if error.errno is not None:  # An error of the operating system, such as a full disk: the traceback says where.
            raise
        raise SystemExit(str(error)) from error
