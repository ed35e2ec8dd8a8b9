"""Power cuts: the training runs on an ext4 file system in an image, which is copied while the training stands still, and mounted anew."""

import contextlib
import random
import shutil
import signal
import subprocess
import time

from tests.faults.runs import Child, Tally, judge


@contextlib.contextmanager
def mounted(image, place):
    place.mkdir(parents=True, exist_ok=True)
    # Without auto_da_alloc, ext4 does not sync renamed files by itself.
    subprocess.run(["mount", "-o", "loop,noauto_da_alloc", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def saved(run):
    return [path.name for path in (run / "checkpoints").glob("*") if path.name.isdecimal()]


def cuts(home, kind, count, reference, seconds, seed=0):
    """Cuts the power at random moments of a training, and continues it from what had reached the disk."""
    tally, chance, image = Tally(), random.Random(seed), home / "disk.img"
    for number in range(count):
        with image.open("wb") as file:
            file.truncate(2**26)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        copy = home / f"cut-{number}.img"
        with mounted(image, home / "disk") as disk, Child(kind, disk / "run") as process:
            time.sleep(chance.random() * seconds)
            process.send(signal.SIGSTOP)
            there = len(saved(disk / "run"))
            shutil.copy(image, copy)
            process.send(signal.SIGKILL)
        with mounted(copy, home / "after") as disk:
            if there > 1 and not saved(disk / "run"):
                tally.add("lost", f"{there} checkpoints were there")
            else:
                judge(tally, disk / "run", kind, reference)
        copy.unlink()
    return tally
