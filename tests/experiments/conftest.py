"""The scripts run on the original files where there are any, else on synthetic rows of the same shapes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import flaxfit as ff
from flaxfit.data.originals import Originals

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))  # as for a script that is run: tests import claims and pages


def images(rng, wrong):
    """MNIST's shapes: a faint pattern a class under noise, and a share of the labels drawn anew, so that no net is always right."""
    patterns = rng.uniform(0, 255, (10, 28, 28))

    def part(rows):
        y = rng.integers(0, 10, rows).astype(np.uint8)
        x = (0.16 * patterns[y] + 0.84 * rng.integers(0, 256, (rows, 28, 28), np.uint8)).astype(np.uint8)
        return {"x": x[..., None], "y": np.where(rng.random(rows) < wrong, rng.integers(0, 10, rows), y).astype(np.uint8)}

    return {"train": part(60_000), "test": part(10_000)}


def reviews(rng, words=12_000, length=60):
    """IMDB's: reviews of words by rank, the frequent ones first; good reviews take a word of even rank more often."""

    def part(rows=25_000):
        y = np.arange(rows) % 2
        ranks = np.exp(rng.uniform(0, np.log(words), (rows, length))).astype(np.int32)
        ranks[(rng.random(ranks.shape) < 0.2) & (y == 1)[:, None]] &= ~1
        return {"ranks": np.maximum(ranks, 1).ravel(), "offsets": np.arange(0, rows * length + 1, length), "y": y.astype(np.int32)}

    names = b"\n".join(b"word%d" % rank for rank in range(words))
    return {"train": part(), "test": part(), "words": {"words": np.frombuffer(names, np.uint8)}}


def table(rng, rows, columns, signal, noise):
    """HIGGS's and sonar's: the class is the sign of a few products of columns, and noise."""
    x = rng.uniform(0, 1, (rows, columns)).astype(np.float32)
    score = signal * (x[:, :6] - 0.5).sum(1) + 3 * (x[:, 0] - 0.5) * (x[:, 1] - 0.5) + noise * rng.normal(size=rows)
    return {"all": {"x": x, "y": (score > 0).astype(np.int32)}}


SYNTHETIC = {
    "mnist": lambda rng: images(rng, 0.04),
    "fashion_mnist": lambda rng: images(rng, 0.15),
    "imdb": reviews,
    "higgs": lambda rng: table(rng, 15_978, 28, 0.3, 0.4),
    "sonar": lambda rng: table(rng, 208, 60, 1.0, 0.05),
}


def synthetic(cache):
    """Fills a cache with synthetic rows, as if they had been read from the originals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLAXFIT_CACHE", str(cache))
        patch.delenv("FLAXFIT_ORIGINALS", raising=False)
        for name, make in SYNTHETIC.items():
            patch.setattr(Originals, "read", lambda self, *_, make=make: (make(np.random.default_rng(0)), self.checksums))
            ff.data.load(name, **({"train": 10_000, "validation": 1_000, "test": 4_978} if name == "higgs" else {}))


@pytest.fixture(scope="session")
def real():
    """Whether there are originals, of all sets."""
    directory = Path(os.environ.get("FLAXFIT_ORIGINALS") or "missing")
    return all((directory / name).is_dir() for name in SYNTHETIC)


@pytest.fixture(scope="session")
def made_up(tmp_path_factory):
    """A cache of synthetic rows. Tests only read it."""
    cache = tmp_path_factory.mktemp("synthetic")
    synthetic(cache)
    return cache


@pytest.fixture(scope="session")
def prepared(request, tmp_path_factory, real):
    """A cache of the data sets for the scripts."""
    return tmp_path_factory.mktemp("cache") if real else request.getfixturevalue("made_up")


@pytest.fixture
def data(prepared, real, monkeypatch):
    """The scripts find their data, and are compiled as fast as can be: of runs so short, that is most of the time."""
    if not real:
        monkeypatch.delenv("FLAXFIT_ORIGINALS", raising=False)
    monkeypatch.setenv("FLAXFIT_CACHE", str(prepared))
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


class Page:
    """What a study left: rows of its tables by title, verdicts of its claims, names of its plots."""

    def __init__(self, directory):
        parts = json.loads((directory / "page.json").read_text(encoding="utf-8"))["parts"]
        self.tables = {part["title"]: part["rows"] for part in parts if part["kind"] == "table"}
        self.claims = {part["claim"]: part["verdict"] for part in parts if part["kind"] == "claim"}
        plots = [directory / part["file"] for part in parts if part["kind"] == "plot"]
        assert all(plot.read_bytes()[:4] == b"\x89PNG" for plot in plots)
        self.plots = [plot.stem for plot in plots]

    def table(self, start):
        """The table whose title starts so."""
        [rows] = [rows for title, rows in self.tables.items() if title.startswith(start)]
        return rows

    def verdict(self, words):
        """The verdict of the claim with these words."""
        [verdict] = [verdict for claim, verdict in self.claims.items() if words in claim]
        return verdict


@pytest.fixture
def run(tmp_path):
    """Runs a script in a directory of its own: (script, options) -> what it printed; or, where `code` is not 0, its errors."""

    def run(script, *options, code=0):
        command = [sys.executable, EXPERIMENTS / script, *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done.stderr.strip() if code else done.stdout

    return run


@pytest.fixture
def study(run, tmp_path, data):
    """Runs a study, shortened: (name, options) -> its page and what it printed."""

    def study(name, *options):
        text = run(f"{name}.py", *options)
        return Page(tmp_path / "runs" / name), text

    return study


@pytest.fixture
def page():
    """Reads a study's page from its directory."""
    return Page


@pytest.fixture
def histories():
    """Reads the histories of a population's members, by name, from its directory."""
    from flaxfit.storage.store import Store

    def histories(directory):
        with Store(directory / "members.sqlite", write=False) as store:
            return {name: store[name].history for name in store.names}

    return histories


@pytest.fixture
def written(histories):
    """Says how many runs are saved below a directory, and when their files were written."""

    def written(home):
        stores, alone = [*home.rglob("members.sqlite")], [*home.rglob("_CHECKPOINT_METADATA")]
        count = len(alone) + sum(len(histories(store.parent)) for store in stores)
        return count, {path: path.stat().st_mtime_ns for path in stores + alone}

    return written


@pytest.fixture
def synthetic_cache(made_up, monkeypatch):
    """The cache of synthetic rows, whether there are originals or not."""
    monkeypatch.setenv("FLAXFIT_CACHE", str(made_up))
    monkeypatch.delenv("FLAXFIT_ORIGINALS", raising=False)


def words(text):
    """A text without its numbers, which differ a little between kinds of processors, and its line breaks."""
    return re.sub(r"[-+]?\d[\d.]*(e-?\d+)?", "#", text).split()


@pytest.fixture
def run_page(tmp_path, monkeypatch, capsys):
    """Runs the blocks of a page in order, in one namespace. A block of text is what the block before it printed."""
    from flaxfit import cli

    def run_page(page):
        monkeypatch.chdir(tmp_path)
        namespace, printed = {"__name__": "__main__"}, ""
        for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE):
            if language == "python":
                exec(compile(code, page.stem, "exec"), namespace)
                printed = capsys.readouterr().out
            elif language == "text":
                assert words(printed) == words(code)
            elif language == "sh":
                for line in filter(lambda line: line.startswith("flaxfit "), code.splitlines()):
                    assert cli.main(shlex.split(line)[1:]) == 0, capsys.readouterr().err

    return run_page
