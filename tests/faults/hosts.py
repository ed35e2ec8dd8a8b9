"""A Dask cluster of two "hosts" that share no directory, of which one is lost: `python -m tests.faults.hosts`. It needs root on Linux.

The hosts are network namespaces of this machine, each with a worker whose temporary and run directories are its own.
"""

import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import distributed
import numpy as np

import flaxfit as ff
from tests.faults.workers import population

PORT = 18786
NAMES = ("a", "b")


def run(*command):
    subprocess.run(command, check=True)


@contextmanager
def host(number, home):
    """A network namespace with a worker in it, whose process is yielded."""
    name, outside, inside = f"flaxfit-{NAMES[number]}", f"ff-out-{number}", f"ff-in-{number}"
    here, there = f"10.213.{number}.1", f"10.213.{number}.2"
    run("ip", "netns", "add", name)
    try:
        run("ip", "link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
        run("ip", "addr", "add", f"{here}/24", "dev", outside)
        run("ip", "link", "set", outside, "up")
        for command in (f"addr add {there}/24 dev {inside}", f"link set {inside} up", "link set lo up", f"route add default via {here}"):
            run("ip", "-n", name, *command.split())
        worker = f"{sys.executable} -m distributed.cli.dask_worker tcp://{here}:{PORT} --nthreads 1 --no-nanny --local-directory /tmp"
        own = f"mount -t tmpfs tmpfs {home} && mount -t tmpfs tmpfs /tmp && exec {worker}"
        with subprocess.Popen(
            ["ip", "netns", "exec", name, "unshare", "-m", "sh", "-c", own], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            yield process
            process.kill()
    finally:
        run("ip", "netns", "del", name)


def main(epochs):
    """Trains 64 members, kills one host midway, asks again with both, and prints what came of it."""
    reference = population(epochs, strategy="threads")

    def same(found):
        return all(np.array_equal(a, b) for one, other in zip(found, reference, strict=True) for a, b in zip(one, other, strict=True))

    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.home())))
        scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "0.0.0.0", "--port", str(PORT), "--no-dashboard"]
        process = stack.enter_context(subprocess.Popen(scheduler, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        stack.callback(process.kill)
        hosts = [stack.enter_context(host(number, home)) for number in range(len(NAMES))]
        client = stack.enter_context(distributed.Client(f"tcp://127.0.0.1:{PORT}", timeout=60))
        client.wait_for_workers(2)
        print("workers:", *(worker["host"] for worker in client.scheduler_info()["workers"].values()), flush=True)
        options = {"executor": client.get_executor(), "run_dir": home / "run"}
        began = time.monotonic()

        def lose():
            while not (home / "run").exists() or time.monotonic() - began < 8:
                time.sleep(0.1)
            hosts[1].kill()

        killer = threading.Thread(target=lose)
        killer.start()
        found = population(epochs, callbacks=lambda member: [ff.callbacks.Checkpoint(every_seconds=1)], **options)
        killer.join()
        print(f"one host lost after 8 s: {'the same bits' if same(found) else 'OTHER BITS'}, {time.monotonic() - began:.0f} s", flush=True)
        began = time.monotonic()
        again = population(epochs, **options)
        print(f"the same call again: {'the same bits' if same(again) else 'OTHER BITS'}, {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000)
