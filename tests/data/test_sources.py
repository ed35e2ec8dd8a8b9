"""The published data sets, from a directory of originals and over HTTP."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import requests

import flaxfit as ff
from flaxfit.data import cache as cache_module
from flaxfit.data import originals as originals_module
from flaxfit.data import sources
from flaxfit.data.originals import find
from flaxfit.data.sources import imdb

MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
LABELED = "imdb/aclImdb_labelled.tar.gz"


def load(name, **options):
    """Loads, and gives the warnings beside it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return ff.data.load(name, **options), [str(warning.message) for warning in caught]


def assert_published(name, splits):
    """Shapes and class counts that are known of the published sets."""
    shape, counts, test_counts = {
        "mnist": ((60000, 28, 28, 1), MNIST_TRAIN, MNIST_TEST),
        "fashion_mnist": ((60000, 28, 28, 1), [6000] * 10, [1000] * 10),
        "imdb": ((25000, 10_000), [12500] * 2, [12500] * 2),
        "sonar": ((208, 60), [97, 111], None),
    }[name]
    assert splits.train.x.shape == shape
    assert splits.train.x.dtype == (np.float32 if name == "sonar" else np.uint8)
    assert np.bincount(splits.train.y).tolist() == counts
    assert splits.train.y.dtype == np.int32
    assert len(splits.train.classes) == len(counts)
    if test_counts is None:
        assert splits.test is None
    else:
        assert splits.test.x.shape[1:] == shape[1:]
        assert np.bincount(splits.test.y).tolist() == test_counts


@pytest.fixture(scope="module")
def reviews(originals, tmp_path_factory):
    """A cache to copy in which imdb is prepared from the originals, which takes seconds."""
    home = tmp_path_factory.mktemp("reviews")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLAXFIT_CACHE", str(home))
        load("imdb", originals=originals, vocabulary=1)
    return home / "data"


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "sonar", "imdb"])
def test_from_a_directory_of_originals_and_over_http(name, originals, cache, host, request):
    if name == "imdb":
        shutil.copytree(request.getfixturevalue("reviews"), cache)
    splits, said = load(name, originals=originals)
    assert_published(name, splits)
    source = sources.SOURCES[name]
    if name == "imdb":
        assert len(said) == 1
        assert "imdb is not read from the published original file: imdb/aclImdb_labelled.tar.gz holds the 50,000 labeled reviews" in said[0]
        assert LABELED in splits.train.provenance.checksums
    else:
        assert said == []
        assert splits.train.record()["checksums"] == {file.path: file.sha256 for file in source.originals}

    # The same over HTTP, of reviews the most frequent words; the host has the labeled archive where the published one would be.
    options = {"vocabulary": 500} if name == "imdb" else {}
    if options:
        splits, _ = load(name, originals=originals, **options)
    served = {file.path: (originals / (LABELED if "aclImdb" in file.path else file.path)).read_bytes() for file in source.originals}
    host.stands_for(name, served, {path: hashlib.sha256(content).hexdigest() for path, content in served.items()})
    if name != "imdb":  # their sums are the published ones
        assert [file.sha256 for file in sources.SOURCES[name].originals] == [file.sha256 for file in source.originals]
    shutil.rmtree(cache)
    fetched, said = load(name, **options)
    assert said == []
    assert sorted(host.requests) == sorted(served)
    for part in ("train", "test"):
        if getattr(splits, part) is not None:
            np.testing.assert_array_equal(getattr(fetched, part).x, getattr(splits, part).x)
            np.testing.assert_array_equal(getattr(fetched, part).y, getattr(splits, part).y)
    host.requests.clear()
    again, _ = load(name, **options)
    assert host.requests == []
    np.testing.assert_array_equal(again.train.x, fetched.train.x)


def test_higgs_substitutes(originals, cache):
    splits, said = load("higgs", originals=originals, validation=1_000, train=10_000)
    assert len(said) == 1
    assert "higgs is not read from the published original file: higgs/HIGGS_sample_15978.csv.gz holds 15,978 rows sampled" in said[0]
    assert (splits.validation.x.shape, splits.train.x.shape, splits.test) == ((1_000, 28), (10_000, 28), None)
    with gzip.open(originals / "higgs" / "HIGGS_sample_15978.csv.gz", "rt") as lines:
        values = np.loadtxt(lines, delimiter=",", max_rows=11_000)
    np.testing.assert_array_equal(splits.validation.x, values[:1_000, 1:].astype(np.float32))
    np.testing.assert_array_equal(splits.train.y, values[1_000:, 0])
    assert splits.train.record()["rows"] == "1000:11000"
    assert (splits.train.features[0], splits.train.features[-1]) == ("lepton pT", "m_wwbb")

    whole, _ = load("higgs", originals=originals, rows=15_978)
    assert np.bincount(whole.train.y).tolist() == [7477, 8501]
    rounded, said = load("higgs", originals=originals, original="HIGGS_first10000_3sig.csv.gz", rows=10_000)
    assert "at three significant digits" in said[0]
    assert int(rounded.train.y.sum()) == 5295
    with pytest.raises(ValueError, match="higgs has 15978 rows in this file, but 20000 were requested"):
        load("higgs", originals=originals, train=20_000)
    with pytest.raises(ValueError, match=r"no file 'HIGGS_sample_15978.csv' of higgs; did you mean 'HIGGS_sample_15978.csv.gz'"):
        load("higgs", originals=originals, original="HIGGS_sample_15978.csv")
    with pytest.raises(
        FileNotFoundError, match=r"higgs should be read from HIGGS.csv.gz, which the directory of originals .* does not have"
    ):
        load("higgs", originals=originals, original="HIGGS.csv.gz")


def test_of_higgs_only_the_first_rows_are_fetched(cache, host):
    rows = np.random.default_rng(0).normal(size=(40_000, 29))
    rows[:, 0] = rows[:, 0] > 0
    content = gzip.compress("".join(",".join(f"{value:.18e}" for value in row) + "\n" for row in rows).encode(), 1)
    host.stands_for("higgs", {"higgs/HIGGS.csv.gz": content})
    splits, _ = load("higgs", rows=1_000)
    np.testing.assert_array_equal(splits.train.x, rows[:1_000, 1:].astype(np.float32))
    ((name, digest),) = splits.train.provenance.checksums.items()
    size = int(name.removeprefix("higgs/HIGGS.csv.gz[:").removesuffix("]"))
    assert size < len(content) / 40 + (1 << 18)  # what the rows take, and a block or two
    assert hashlib.sha256(content[:size]).hexdigest() == digest
    assert host.sent < len(content) / 3  # sockets hold some more

    host.requests.clear()
    assert len(load("higgs", rows=900)[0].train) == 900  # what is there will do
    assert host.requests == []
    splits, _ = load("higgs", validation=500, train=400)
    assert (len(splits.validation), len(splits.train), host.requests) == (500, 400, [])
    assert len(load("higgs", validation=0.1)[0].train) == 9_900  # of 11,000
    assert host.requests == ["higgs/HIGGS.csv.gz"]


def test_imdb_ranks_are_those_of_the_published_index(originals, cache, reviews):
    shutil.copytree(reviews, cache)
    splits, _ = load("imdb", originals=originals, vocabulary=100)
    index = json.loads((originals / "imdb" / "imdb_word_index.json").read_text())
    by_rank = sorted(index, key=index.get)
    (directory,) = cache.glob("imdb-*")
    words = bytes(np.load(directory / "words.words.npy")).decode().split("\n")
    assert len(words) == 88_584
    assert set(words) == set(by_rank)
    ranks = np.load(directory / "train.ranks.npy")
    counts = np.bincount(ranks, minlength=88_585)[1:]
    assert np.all(np.diff(counts) <= 0)
    for first, second in zip(range(len(words) - 1), range(1, len(words)), strict=True):
        assert counts[first] > counts[second] or index[words[first]] < index[words[second]]
    assert splits.train.features == tuple(words[:100])
    # Another vocabulary needs no preparation, and its first columns are the same.
    more, _ = load("imdb", originals=originals, vocabulary=1_000)
    np.testing.assert_array_equal(more.test.x[:, :100], splits.test.x)
    with pytest.raises(ValueError, match=r"vocabulary=\.\.\.\) must be from 1 to 88584, got 100000"):
        load("imdb", originals=originals, vocabulary=100_000)
    keras, _ = load("imdb", originals=originals, vocabulary=1_000, layout="keras")
    np.testing.assert_array_equal(keras.test.x[:, 4:], more.test.x[:, :996])


def test_the_layout_of_keras_beside_reviews_by_hand():
    """Ten columns keep six words: the offset of Keras's `imdb.load_data` is 3, and the word of rank 1 has the index 4."""
    reviews = [[1, 3, 1], [6, 7, 0], [0], [9, 9, 2], []]
    ranks, offsets = np.concatenate(reviews).astype(np.int32), np.cumsum([0, *map(len, reviews)])
    parts = {"words": {"words": np.frombuffer(b"\n".join(b"the and a of to is br in it".split()), np.uint8)}}
    x, features = imdb._assemble({"ranks": ranks, "offsets": offsets}, parts, 10, "keras")
    assert features == (*imdb.KERAS, "the", "and", "a", "of", "to", "is")
    assert x.tolist() == [
        [0, 1, 0, 0, 1, 0, 1, 0, 0, 0],
        [0, 1, 1, 0, 0, 0, 0, 0, 0, 1],
        [0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    for vocabulary, layout, message in ((4, "keras", "from 5 to 13, got 4"), (14, "keras", "got 14"), (9, "kears", "did you mean 'keras'")):
        with pytest.raises(ValueError, match=message):
            imdb._assemble({"ranks": ranks, "offsets": offsets}, parts, vocabulary, layout)


def test_tokens_are_keras_python_2_tokens():
    assert imdb.tokens("It's a CAF\u00c9,\tno\r\n".encode()) == [b"it's", b"a", "caf\u00c9".encode(), b"no\r"]


def test_ties_take_the_order_of_the_index():
    counts = Counter({b"b": 2, b"a": 2, b"c": 5})
    assert imdb.ranked(counts, {"b": 7, "a": 9, "c": 1}) == [b"c", b"b", b"a"]
    with pytest.raises(ValueError, match=r"have 1 words that are not in imdb/imdb_word_index.json, and lack 2 of its 4"):
        imdb.ranked(counts, {"b": 1, "a": 2, "d": 3, "e": 4})


@pytest.fixture
def small(host):
    """Sonar from a host, with four rows."""
    content = "".join(",".join(["0.5"] * 60 + [label]) + "\n" for label in "RMMR").encode()
    path = "sonar/sonar.all-data"
    host.stands_for("sonar", {path: content}, {path: hashlib.sha256(content).hexdigest()})
    return host


def left_behind(cache):
    return [path.name for path in cache.iterdir() if path.suffix != ".lock"] if cache.exists() else []


def test_a_connection_that_breaks_is_begun_again(cache, small):
    small.faults = ["drop", "drop"]
    assert load("sonar")[0].train.y.tolist() == [0, 1, 1, 0]
    assert len(small.requests) == 3


def test_redirects_are_followed_but_not_out_of_https(cache, small):
    small.files["elsewhere"] = small.files["sonar/sonar.all-data"]
    small.faults = ["/elsewhere"]
    assert len(load("sonar")[0].train) == 4
    assert small.requests == ["sonar/sonar.all-data", "elsewhere"]
    response = requests.Response()
    response.status_code, response.url = 302, "https://host/file"
    for target in ("/there", "//other/there", "https://other/there"):
        response.headers["Location"] = target
        originals_module._stay_with_https(response)
    response.headers["Location"] = "http://host/file"
    with pytest.raises(OSError, match="redirects from https to http://host/file"):
        originals_module._stay_with_https(response)


def test_a_host_that_is_busy_is_asked_again(cache, small):
    small.faults = [503, 503]
    assert len(load("sonar")[0].train) == 4
    assert len(small.requests) == 3


def test_downloads_need_an_extra(cache, small, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"downloading sonar needs pooch.*pip install flaxfit\[data\]"):
        load("sonar")
    assert left_behind(cache) == []


def test_a_connection_that_breaks_every_time(cache, small):
    small.faults = ["drop"] * 9
    with pytest.raises(OSError, match=r"sonar could not be downloaded in 3 attempts from http://.*FLAXFIT_ORIGINALS"):
        load("sonar")
    assert left_behind(cache) == []
    small.faults = []
    assert len(load("sonar")[0].train) == 4


@pytest.mark.parametrize("name", ["sonar", "higgs"])
def test_a_file_that_is_not_there(name, cache, small):
    small.stands_for("higgs", {"higgs/HIGGS.csv.gz": b""})
    small.faults = [404] * 9
    with pytest.raises(OSError, match=f"{name} could not be downloaded from .*404.*FLAXFIT_ORIGINALS") as raised:
        load(name)
    assert not hasattr(raised.value, "__notes__")  # another cache would not help
    assert len(small.requests) == 1
    assert left_behind(cache) == []


def test_a_host_that_stalls_or_is_not_there(cache, small, monkeypatch):
    monkeypatch.setattr("flaxfit.data.originals.TIMEOUT", 0.2)
    small.faults = ["stall"] * 3
    with pytest.raises(OSError, match=r"sonar could not be downloaded in 3 attempts from .*timed out"):
        load("sonar")
    small.close()
    with pytest.raises(OSError, match=r"sonar could not be downloaded in 3 attempts from .*refused"):
        load("sonar")
    assert left_behind(cache) == []


@pytest.mark.parametrize("name", ["higgs", "mnist"])
def test_a_page_in_place_of_the_file(name, cache, host):
    page = b"<html>Sign in to this network</html>"
    host.stands_for(name, {file.path: page for file in sources.SOURCES[name].originals})
    with pytest.raises(
        OSError,
        match=rf"{name} could not be downloaded from http://127.*not send a gzip file, but perhaps a page to sign in.*FLAXFIT_ORIGINALS",
    ):
        load(name)
    assert len(host.requests) == 1
    assert left_behind(cache) == []


@pytest.mark.parametrize(
    ("content", "kind", "error"),
    [
        (gzip.compress(b"1.0,2.0")[:10] + b"\xff" * 99, OSError, "gz: Error -3 while decompressing"),
        (gzip.compress(b"1.0,2.0")[:12], OSError, "gz: the gzip file ends in the middle"),
    ],
    ids=["broken", "cut"],  # without them the time in a gzip file is in the name of its test, which differs from process to process
)
def test_a_gzip_file_that_is_broken(content, kind, error, cache, host):
    host.stands_for("higgs", {"higgs/HIGGS.csv.gz": content})
    with pytest.raises(kind, match=f"higgs could not be downloaded from http://127.*{error}.*FLAXFIT_ORIGINALS"):
        load("higgs")
    assert len(host.requests) == 1
    assert left_behind(cache) == []


def test_a_stream_that_breaks_is_begun_again(cache, host):
    content = gzip.compress("".join("1.0," + ",".join([f"{row}.25"] * 28) + "\n" for row in range(20_000)).encode(), 0)
    host.stands_for("higgs", {"higgs/HIGGS.csv.gz": content})
    host.faults = ["drop", "drop"]
    splits, _ = load("higgs", rows=15_000)
    assert splits.train.x[:, 3].tolist() == [row + 0.25 for row in range(15_000)]
    assert len(host.requests) == 3
    host.faults = ["drop"] * 9
    with pytest.raises(OSError, match=r"higgs could not be downloaded in 3 attempts"):
        load("higgs", rows=19_000)
    assert len(left_behind(cache)) == 1


def test_a_wrong_checksum_names_both_sums(cache, small):
    wanted = sources.SOURCES["sonar"].originals[0].sha256
    content = b"another file"
    small.files["sonar/sonar.all-data"] = content
    with pytest.raises(
        ValueError, match=r"sonar could not be downloaded in 3 attempts from .*does not match.*as sonar/sonar.all-data.*FLAXFIT_ORIGINALS"
    ) as raised:
        load("sonar")
    assert hashlib.sha256(content).hexdigest() in str(raised.value)
    assert wanted in str(raised.value)
    assert left_behind(cache) == []


def test_a_wrong_checksum_in_the_directory_of_originals(cache, tmp_path):
    (tmp_path / "sonar").mkdir()
    (tmp_path / "sonar" / "sonar.all-data").write_text("another file")
    with pytest.raises(ValueError, match="is not the published file") as raised:
        load("sonar", originals=tmp_path)
    assert hashlib.sha256(b"another file").hexdigest() in str(raised.value)
    assert sources.SOURCES["sonar"].originals[0].sha256 in str(raised.value)
    assert left_behind(cache) == []
    with pytest.raises(FileNotFoundError, match=r"directory of originals .* does not exist"):
        load("sonar", originals=tmp_path / "nowhere")


def test_a_full_disk(originals, tmp_path, host, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        monkeypatch.setenv("FLAXFIT_CACHE", str(disk))
        for source in (originals, None):  # arrays do not fit; downloads do not fit
            if source is None:
                files = {file.path: (originals / file.path).read_bytes() for file in sources.SOURCES["mnist"].originals}
                host.stands_for("mnist", files)
                monkeypatch.delenv("FLAXFIT_ORIGINALS", raising=False)
            with pytest.raises(OSError) as raised:  # noqa: PT011  (the operating system words it)
                load("mnist", originals=source)
            assert "FLAXFIT_CACHE can name another directory" in "".join(raised.value.__notes__)
            assert left_behind(disk / "data") == []
        assert len(load("sonar", originals=originals)[0].train) == 208  # there is room again
    finally:
        subprocess.run(["umount", disk], check=True)


def test_two_processes_that_prepare_at_once(originals, cache):
    cache.mkdir(parents=True)
    digest = find(sources.SOURCES["fashion_mnist"], originals).digest
    (cache / f".fashion_mnist-1.0.0-{digest}.x.tmp").mkdir()  # by a process that was killed
    code = (
        "import sys, hashlib, flaxfit as ff\n"
        "train = ff.data.load('fashion_mnist', originals=sys.argv[1]).train\n"
        "print(hashlib.sha256(train.x).hexdigest(), 'tensorflow' in sys.modules, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(originals)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert printed[0] == printed[1]
    assert printed[0].endswith("False False\n")
    assert len(left_behind(cache)) == 1


def test_the_cache_is_mapped_and_not_read(originals, cache):
    load("mnist", originals=originals)
    again, _ = load("mnist", originals=originals)
    base = again.train.x
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    assert type(base).__name__ == "mmap"


def test_another_version_is_prepared_anew(cache, small, monkeypatch):
    load("sonar")
    load("sonar")
    assert len(small.requests) == 1
    monkeypatch.setitem(sources.SOURCES, "sonar", replace(sources.SOURCES["sonar"], version="2.0.0"))
    assert load("sonar")[0].train.record()["version"] == "2.0.0"
    assert len(small.requests) == 2


def test_cached_arrays_that_are_damaged_are_prepared_anew(cache, small, monkeypatch):
    mapped = load("sonar")[0].train
    x, y = np.array(mapped.x), np.array(mapped.y)
    (home,) = (path for path in cache.iterdir() if path.suffix != ".lock")
    files = {path: path.read_bytes() for path in home.iterdir()}
    flipped = {path: content[:-1] + bytes([content[-1] ^ 4]) for path, content in files.items() if path.suffix == ".npy"}
    damages = [*flipped.items(), *((path, content[: len(content) // 2]) for path, content in files.items()), (home / "about.json", b"{}")]
    for path, damaged in damages:
        path.write_bytes(damaged)
        cache_module._verified.clear()  # as in another process
        requests_before = len(small.requests)
        found, said = load("sonar")
        assert np.array_equal(found.train.x, x)
        assert np.array_equal(found.train.y, y)
        assert [text for text in said if "is damaged" in text and "is prepared anew" in text]
        assert len(small.requests) == requests_before + 1
        assert {file: file.read_bytes() for file in home.iterdir()} == files
    monkeypatch.setattr(cache_module, "_sum", lambda path: pytest.fail("summed twice in a process"))
    load("sonar")


def test_the_cache_is_private_whatever_the_umask(cache, small):
    before = os.umask(0)
    try:
        load("sonar")
    finally:
        os.umask(before)
    for path in (cache.parent, cache, *(path for path in cache.iterdir() if path.is_dir())):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda rows: rows[:900], "has 900 rows where 1,000 were asked for"),
        (lambda rows: [rows[0].replace("0.5", "nan"), *rows[1:]], "x has NaN or infinity"),
        (lambda rows: ["3" + rows[0][1:], *rows[1:]], "y has labels other than 0 to 1"),
    ],
)
def test_replies_that_are_not_the_data_set_are_not_kept(cache, host, change, why):
    rows = [",".join([str(row % 2), *["0.5"] * 28]) + "\n" for row in range(1000)]
    content = {name: gzip.compress("".join(lines).encode()) for name, lines in (("bad", change(rows)), ("good", rows))}
    host.stands_for("higgs", {"higgs/HIGGS.csv.gz": content["bad"]})
    with pytest.raises(ValueError, match=why):
        load("higgs", rows=1_000)
    assert left_behind(cache) == []
    host.files["higgs/HIGGS.csv.gz"] = content["good"]
    assert len(load("higgs", rows=1_000)[0].train) > 0


def test_a_reply_without_line_ends_is_given_up(cache, host, monkeypatch):
    monkeypatch.setattr(originals_module, "LONGEST_LINE", 10**6)
    host.stands_for("higgs", {"higgs/HIGGS.csv.gz": gzip.compress(b"7" * 10**8)})
    with pytest.raises(OSError, match="sent a line of more than 1,000,000 bytes"):
        load("higgs", rows=10)
    assert left_behind(cache) == []
