"""Files that somebody else may have made: `python hostile.py DIRECTORY` prints an outcome a line.

Each is to be refused with an error, without running anything and without taking memory for what it only claims to hold.
"""

import gzip
import hashlib
import io
import json
import os
import pickle
import resource
import shutil
import sqlite3
import stat
import sys
import zipfile
from pathlib import Path

import child
import jax
import jax.export
import numpy as np

import flaxfit as ff
from flaxfit.storage.directory import seal

LIMIT_MB = 200


class Runs:
    """What would create a file if it were unpickled."""

    def __reduce__(self):
        return os.mkdir, (str(MARK),)


def npz(file, **arrays):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (shape, content) in arrays.items():
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
            archive.writestr(f"{name}.npy", header.getvalue() + content)
    return file


def weights(header, content=b""):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


def cases(home, run):
    """Yields the name of a case and a function that opens its file."""
    y = ((10,), bytes(80))
    for name, x in (("claims 22 GB", ((10, 275_000_000), bytes(800))), ("other row counts", ((10**6, 2), bytes(16 * 10**6)))):
        yield f"npz that {name}", lambda x=x: ff.data.read_npz(npz(home / "a.npz", x=x, y=y))
    np.savez(home / "pickled.npz", x=np.array([Runs()] * 3, object), y=np.zeros(3))
    yield "npz with a pickle", lambda: ff.data.read_npz(home / "pickled.npz")
    (home / "not.npz").write_bytes(pickle.dumps(Runs()))
    yield "pickle called npz", lambda: ff.data.read_npz(home / "not.npz")
    with gzip.open(home / "line.csv.gz", "wb") as file:
        for _ in range(400):
            file.write(b"7" * 2**20)
    yield "gzipped table of one line of 400 MB", lambda: ff.data.read_csv(home / "line.csv.gz")
    (home / "late.csv").write_bytes(b"1,2\n" * 100_000 + b"7" * 2**25)
    yield "table whose last line has 32 MB", lambda: ff.data.read_csv(home / "late.csv", header=False)

    files = {path.name: path.read_bytes() for path in (run / "export").iterdir()}

    def packed(extra=(), compressed=False, link=False):
        with zipfile.ZipFile(home / "model.flaxfit", "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
            for name, content in [*files.items(), *extra]:
                info = zipfile.ZipInfo(name)
                info.compress_type = archive.compression
                info.external_attr = ((stat.S_IFLNK if link else stat.S_IFREG) | 0o644) << 16
                archive.writestr(info, content)
        return lambda: ff.load(home / "model.flaxfit")

    yield "model with a path that leads out", packed([("../../escaped", b"x")])
    yield "model with a pickle", packed([("weights.pkl", pickle.dumps(Runs()))])
    yield "model of links", packed(link=True)
    yield "compressed model", packed([("model.json", b"0" * 10**8)], compressed=True)

    def exported(**changed):
        place = home / "export"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        both = {name: changed.get(name.partition(".")[0], content) for name, content in files.items() if name != "SHA256SUMS"}
        for name, content in both.items():
            (place / name).write_bytes(content)
        sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in both.items())
        (place / "SHA256SUMS").write_text(sums)
        return lambda: ff.load(place)

    huge = {"params/a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    yield "weights that claim 4 TB", exported(weights=weights(huge))
    yield "weights with a header of 4 EB", exported(weights=(2**62).to_bytes(8, "little") + b"{}")
    yield (
        "weights that overlap",
        exported(weights=weights({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in ("params/a", "params/b")}, bytes(8))),
    )
    yield "model.json with code", exported(model=files["model.json"].replace(b'"format": 1', b'"format": "__import__(\'os\')"'))
    yield "program that is a pickle", exported(predict=pickle.dumps(Runs()))

    def calls_python():
        target = "xla_ffi_python_cpu_callback"
        call = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct((2, 6), np.float32))
        shapes = {"params/a": jax.ShapeDtypeStruct((1,), np.float32)}, {"": jax.ShapeDtypeStruct((2, 6), np.float32)}
        allowed = [jax.export.DisabledSafetyCheck.custom_call(target)]
        return bytes(jax.export.export(jax.jit(lambda w, x: call(x[""])), disabled_checks=allowed)(*shapes).serialize())

    yield "program that calls Python", exported(predict=calls_python())

    def reopened(change):
        place = home / "run"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(run, place)
        change(place)
        return lambda: child.fit(place)

    def described(**changes):
        def change(place):
            for path in (place / "checkpoints").glob("*/about/metadata"):
                about = json.loads(path.read_bytes()) | changes
                about.pop("seal")
                path.write_text(json.dumps(about | {"seal": seal(about)}))

        return change

    yield "checkpoint that claims 8 TB of history", reopened(described(history=[2**40, 3]))
    yield "checkpoint of another run", reopened(described(run="0" * 32))
    yield "checkpoint of another format", reopened(described(format="__import__('os')"))
    yield "config.json with a list", reopened(lambda place: (place / "config.json").write_text("[1]"))

    def population(place):
        with sqlite3.connect(place / "members.sqlite") as database:
            database.execute("CREATE VIEW members AS SELECT load_extension('x') AS name, 1 AS record, 1 AS about, 1 AS history, 1 AS crc")

    (home / "population").mkdir()
    population(home / "population")
    yield "population with code in a view", lambda: ff.fit_many(child.task, None, child.data(), seeds=1, run_dir=home / "population")


def main(home):
    run = home / "good"
    child.fit(run, 3)
    child.EPOCHS = 3
    for name, opens in cases(home, run):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            opens()
            outcome, why = "wrong", "it was taken"
        except (ValueError, KeyError, TypeError, OSError) as error:
            outcome, why = "fine", str(error)
        except Exception as error:
            outcome, why = "refused", repr(error)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        if MARK.exists() or (home.parent / "escaped").exists():
            outcome, why = "executed", why
        elif grown > LIMIT_MB:
            outcome, why = "memory", f"{grown} MB: {why}"
        print("outcome", outcome, name + ":", why.replace("\n", " ")[:300], flush=True)


if __name__ == "__main__":
    MARK = Path(sys.argv[1]) / "executed"
    main(Path(sys.argv[1]))
