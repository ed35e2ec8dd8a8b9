"""Damage to every file of a finished run: `python damage.py DIRECTORY LIMIT` prints an outcome a line."""

import contextlib
import io
import shutil
import sys
import warnings
from pathlib import Path

import child

import flaxfit as ff


def faults(content):
    middle = len(content) // 2
    yield "deleted", None
    yield "emptied", b""
    yield "truncated", content[:middle]
    for place in (0, middle, len(content) - 1):
        yield f"flipped at {place}", content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def judged(run, reference):
    """Reopens a damaged run: "fine" if the result is right or the damage is said."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            result = child.fit(run)
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        return "fine", f"refused: {error}"
    except Exception as error:
        return "refused", repr(error)
    if child.checksum([result]) != reference:
        return "wrong", "another result"
    return ("fine", "") if ff.load(run).about["epochs"] == child.EPOCHS else ("lost", "an older export")


def main(home, limit):
    whole = home / "whole"
    reference, number = child.checksum([child.fit(whole)]), 0
    for file in sorted(path for path in whole.rglob("*") if path.is_file() and path.stat().st_size):
        for what, damaged in faults(file.read_bytes()):
            number += 1
            if limit and number % (1000 // limit):
                continue
            run = home / "damaged"
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(whole, run)
            target = run / file.relative_to(whole)
            target.unlink()
            if damaged is not None:
                target.write_bytes(damaged)
            outcome, why = judged(run, reference)
            print("outcome", outcome, file.relative_to(whole), what, why.replace("\n", " ")[:300], flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
