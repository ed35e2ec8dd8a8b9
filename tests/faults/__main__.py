"""Does to flaxfit what machines and people do, and prints what became of it: `python -m tests.faults`, from the root of a clone.

`--share 0.1` does a tenth of the full counts. Power cuts and full disks need root on Linux. To judge another version of flaxfit, copy this
directory into its clone.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults import disk, kills, power
from tests.faults.runs import KINDS, Tally

COUNTS = {"kill": 100, "signal": 40, "damage": 1000, "power": 12, "disk": 9, "hostile": 21, "workers": 40}
OUTCOMES = ("fine", "refused", "swallowed", "lost", "wrong", "executed", "memory")


def printed(script, *arguments):
    """Counts the outcomes that a script prints."""
    tally, command = Tally(), [sys.executable, Path(__file__).with_name(script), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        out, said = process.communicate()
    for line in out.splitlines():
        if line.startswith("outcome "):
            _, outcome, note = line.split(" ", 2)
            tally.add(outcome, note)
    if process.returncode:
        tally.add("refused", f"{script} ended with {process.returncode}: {said}")
    return tally


def tables(home, wanted, share):
    """Yields the name of each kind of fault and its outcomes."""
    counts = {kind: max(1, round(count * share)) for kind, count in COUNTS.items()}
    references = {}
    for kind in KINDS if "kill" in wanted else ("fit", "threads") if {"signal", "power", "disk"} & wanted else ():
        references[kind] = kills.measured(home, kind)
    if "kill" in wanted:
        for kind in KINDS:
            yield f"kills: {kind}", kills.kills(home, kind, counts["kill"], *references[kind])
    if "signal" in wanted:
        yield "signals", kills.signals(home, counts["signal"], references["fit"][0])
    if "damage" in wanted:
        yield "damaged files", printed("damage.py", home, counts["damage"] if share < 1 else 0)
    if "power" in wanted:
        for kind in ("fit", "threads"):
            yield f"power cuts: {kind}", power.cuts(home, kind, counts["power"], *references[kind])
    if "disk" in wanted:
        yield "full disks", disk.full(home, disk.SIZES[: counts["disk"]], references["fit"][0])
    if "hostile" in wanted:
        yield "hostile files", printed("hostile.py", home)
    if "workers" in wanted:
        from tests.faults import workers  # after the cache is chosen

        for kind in ("dask", "processes"):
            yield f"workers: {kind}", workers.kills(kind, counts["workers"], epochs=4000)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"which of {', '.join(COUNTS)}; by default all")
    parser.add_argument("--share", type=float, default=1.0, help="the share of the full counts")
    chosen = parser.parse_args()
    wanted, notes, bad = set(chosen.kinds or COUNTS), [], 0
    if unknown := wanted - set(COUNTS):
        parser.error(f"there is no {min(unknown)}: choose from {', '.join(COUNTS)}")
    print("| faults | number |", " | ".join(OUTCOMES), "|\n|---|---|" + "---|" * len(OUTCOMES))
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        os.environ["FLAXFIT_CACHE"] = f"{name}/cache"
        os.environ["PYTHONPATH"] = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])  # scripts judge this clone, too
        for what, tally in tables(Path(name), wanted, chosen.share):
            print(f"| {what} | {tally.total()} |", " | ".join(str(tally[outcome]) for outcome in OUTCOMES), "|", flush=True)
            notes += [f"{what}: {note}" for note in tally.notes]
            bad += tally.total() - tally["fine"]
    print(*("\n" + note for note in notes), sep="\n")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
