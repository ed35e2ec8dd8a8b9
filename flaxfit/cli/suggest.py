"""The command that studies what a `flaxfit fit` has trained."""

from __future__ import annotations

import shlex
from dataclasses import fields

import tyro

from flaxfit.cli.options import Fit, Net, Source


def study_of(command: Fit) -> str:
    """Returns the command that studies the same data with the same network."""
    words = ["flaxfit", "study", command.data]
    for field in [*fields(Source), *fields(Net)]:
        value = getattr(command, field.name)
        if field.name != "data" and value != field.default:
            several = value if isinstance(value, tuple) and field.name != "hidden" else [value]
            for each in several:
                words += [f"--{field.name.replace('_', '-')}", *map(str, each if isinstance(each, tuple) else [each])]
    return shlex.join(words)


def study_of_words(words: list[str]) -> str | None:
    """As `study_of`, for the words of a command that was recorded; None if it is no `flaxfit fit`."""
    start = 2 + ("-m" in words[1:2])  # python flaxfit fit, or python -m flaxfit fit
    if words[start : start + 1] != ["fit"]:
        return None
    try:
        return study_of(tyro.cli(Fit, args=words[start + 1 :], console_outputs=False, config=(tyro.conf.OmitArgPrefixes,)))
    except SystemExit:
        return None
