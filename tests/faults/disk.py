"""Disks that fill: the training runs on a tmpfs of so many kilobytes, and then once more with room."""

import subprocess

from tests.faults.runs import Tally, judge, run

SIZES = (8, 16, 32, 64, 96, 128, 192, 256, 512)


def full(home, sizes, reference):
    tally = Tally()
    for size in sizes:
        place = home / f"full-{size}"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", place], check=True)
        try:
            found, said, _ = run("fit", place / "run")
            at_start = found is None and "No space left" in said.splitlines()[-1] and not (place / "run" / "metrics.jsonl").exists()
            subprocess.run(["mount", "-o", "remount,size=64m", place], check=True)
            if found == reference or at_start:
                judge(tally, place / "run", "fit", reference)
            else:
                tally.add("lost" if found is None else "wrong", f"{size} kB: {said}")
        finally:
            subprocess.run(["umount", place], check=True)
    return tally
