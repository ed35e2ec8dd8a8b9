"""Kills and signals at random moments."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.faults.runs import Child, Tally, begin, checksum, judge, run, whole_export

CHILD = Path(__file__).with_name("child.py")


def kills(home, kind, count, reference, seconds, seed=0):
    """Starts a training, kills it at a random moment, starts it again, and so on until it ends; then the next one."""
    tally, chance, number, directory = Tally(), random.Random(seed), 0, None
    done = 0
    while done < count:
        if directory is None:
            directory = home / f"{kind}-{number}"
            number += 1
            begin(kind, directory)
        with Child(kind, directory) as process:
            time.sleep(chance.random() * seconds)
            ended = not process.running
            process.send(signal.SIGKILL)
        if ended:
            seconds *= 0.9  # the machine is faster than when it was measured
        said = process.said
        found = checksum(said)
        if found is not None and found != reference:
            tally.add("wrong", said)
        elif ended and found is None:
            tally.add("refused", said)
        elif not ended:  # only kills are counted
            lost = kind == "continued" and not whole_export(directory)
            tally.add("lost" if lost else "fine", "no whole export")
        done += not ended or found != reference
        directory = None if ended or found is not None else directory
    if directory is not None:
        judge(tally, directory, kind, reference)
    return tally


def signals(home, count, reference, seed=0):
    """Sends a signal at a random moment, start-up and export included; every other time a second one follows at once."""
    tally, chance = Tally(), random.Random(seed)
    began = time.monotonic()
    subprocess.run([sys.executable, CHILD, "fit", home / "signal-none"], capture_output=True, check=True)
    seconds = time.monotonic() - began  # with imports, which are hit, too
    for number in range(count):
        directory, sent = home / f"signal-{number}", chance.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        command = [sys.executable, CHILD, "fit", directory]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(chance.random() * seconds)
            process.send_signal(sent)
            if number % 2:
                time.sleep(0.1)
                process.send_signal(sent)
            out, said = process.communicate()
        if process.returncode == 0 and checksum(out) is None:
            tally.add("swallowed", said)
        elif process.returncode not in (0, -sent):
            tally.add("refused", f"exit {process.returncode}: {said}")
        else:
            judge(tally, directory, "fit", reference)
    return tally


def measured(home, kind):
    """The checksum of an undisturbed training, and its seconds when its programs are in the compilation cache."""
    for name in ("cold", "warm"):
        begin(kind, home / f"{kind}-{name}")
        reference, said, seconds = run(kind, home / f"{kind}-{name}")
        assert reference is not None, said
    return reference, seconds
