from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

import flaxfit as ff


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [("digits", (1797, 8, 8, 1), 10), ("breast_cancer", (569, 30), 2), ("wine", (178, 13), 3), ("diabetes", (442, 10), 0)],
)
def test_scikit_learns_sets(name, shape, classes, cache):
    from sklearn import datasets

    splits = ff.data.load(name)
    bunch = getattr(datasets, f"load_{name}")()
    np.testing.assert_array_equal(splits.train.x.reshape(len(bunch.data), -1), bunch.data.astype(np.float32))
    np.testing.assert_array_equal(splits.train.y, bunch.target.astype(splits.train.y.dtype))
    assert splits.train.x.shape == shape
    assert len(splits.train.classes or ()) == classes
    assert (splits.validation, splits.test) == (None, None)
    assert splits.train.record()["version"].startswith("scikit-learn ")
    assert not cache.exists()


def test_splits_on_loading():
    splits = ff.data.load("digits", validation=300, train=1_000, test=100)
    whole = ff.data.load("digits").train
    np.testing.assert_array_equal(splits.validation.x, whole.x[:300])
    np.testing.assert_array_equal(splits.train.x, whole.x[300:1_300])
    assert splits.test.record()["rows"] == "1300:1400"
    drawn = ff.data.load("digits", validation=0.25, test=0.25, stratified=True, seed=3)
    assert np.bincount(drawn.test.y, minlength=10).min() > 40
    assert not np.array_equal(drawn.test.x, ff.data.load("digits", validation=0.25, test=0.25, stratified=True, seed=4).test.x)


def test_a_test_set_of_the_sources_own(originals, cache):
    splits = ff.data.load("mnist", originals=originals, validation=5_000, test=2_000)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (55_000, 5_000, 2_000)
    assert splits.validation.record()["rows"] == "0:5000"
    assert splits.test.record()["part"] == "test"
    assert len(ff.data.load("mnist", originals=originals, train=300, seed=0).test) == 10_000
    with pytest.raises(ValueError, match=r"load\(test=20000\) takes examples from the test set of mnist: split of 10000 examples"):
        ff.data.load("mnist", originals=originals, test=20_000)
    with pytest.warns(UserWarning, match="test has only 20 examples, so that one of them changes its accuracy by 0.050"):
        ff.data.load("mnist", originals=originals, test=20)


@pytest.mark.parametrize(
    ("name", "options", "kind", "error"),
    [
        ("sonnar", {}, ValueError, "no data set 'sonnar'; did you mean 'sonar'?.*TensorFlow Datasets does not have it"),
        ("imdb", {"vocabluary": 10}, TypeError, r"load\('imdb'\): no option 'vocabluary'; did you mean 'vocabulary'"),
        ("mnist", {"valid": 10}, TypeError, r"no option 'valid'; did you mean 'validation'"),
        ("mnist", {"rows": 10}, TypeError, r"load\('mnist'\): no option 'rows'"),
        ("digits", {"rows": 10}, TypeError, r"load\('digits'\): no option 'rows'"),
        ("digits", {"validation": 2_000}, ValueError, "1797"),
        ("MNIST", {}, ValueError, "no data set 'MNIST'; did you mean 'mnist'"),
        ("mnist:3.0.1", {}, ValueError, "no data set 'mnist:3.0.1'; did you mean 'mnist'"),
        ("fashion-mnist", {}, ValueError, "no data set 'fashion-mnist'; did you mean 'fashion_mnist'"),
        ("mine/rows.csv", {}, ValueError, "use ff.data.read_csv or ff.data.read_npz for files"),
        (3, {}, TypeError, "load needs the name of a data set, got 3"),
        ("higgs", {"rows": 0}, ValueError, r"rows=...\) must be at least 1"),
        ("higgs", {"rows": 2.5}, TypeError, r"rows=...\) must be an integer"),
        ("imdb", {"vocabulary": "10"}, TypeError, r"vocabulary=...\) must be an integer"),
    ],
)
def test_errors(name, options, kind, error, cache):
    with pytest.raises(kind, match=error):
        ff.data.load(name, **options)


def test_names_of_the_package():
    for name in ff.data.__all__:
        assert getattr(ff.data, name) is not None
    with pytest.raises(AttributeError, match="laod"):
        ff.data.laod  # noqa: B018


def test_a_second_load_imports_neither_tfds_nor_scikit_learn_nor_tensorflow(originals, cache):
    code = (
        "import sys, flaxfit as ff; ff.data.load('sonar', originals=sys.argv[1])\n"
        "print(sorted({'tensorflow_datasets', 'sklearn', 'tensorflow', 'torch', 'grain'} & set(sys.modules)))"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code, str(originals)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_bundled_sets_need_no_extra():
    code = (
        "import sys\n"
        "extras = 'pooch requests tqdm dm_pix tensorflow_datasets tensorboardX optuna'.split()\n"
        "sys.modules |= dict.fromkeys(extras)\n"
        "import flaxfit as ff\n"
        "print(len(ff.data.load('digits', validation=0.2, stratified=True, seed=0).train))\n"
        "try: ff.data.load('cifar10')\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1437\nno data set 'cifar10'. There are: breast_cancer")
    assert "pip install flaxfit[data]" in done.stdout


class FlaxfitFlags(tfds.core.GeneratorBasedBuilder):
    """A data set that TFDS knows by name, as a community's would be."""

    VERSION = tfds.core.Version("1.0.0")
    supervised = True

    def _info(self):
        features = {
            "image": tfds.features.Tensor(shape=(2, 3, 1), dtype=np.uint8),
            "label": tfds.features.ClassLabel(names=["plain", "striped"]),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label") if self.supervised else None,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 2500), "test": self._generate_examples(2500, 2600)}

    def _generate_examples(self, first, last):
        for row in range(first, last):
            yield row, {"image": np.full((2, 3, 1), row % 251, np.uint8), "label": row % 2}


@pytest.fixture
def flags(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return FlaxfitFlags


def test_any_tfds_data_set_by_name(flags, cache, monkeypatch):
    splits = ff.data.load("flaxfit_flags", validation=500)
    assert splits.train.x[:, 0, 0, 0].tolist() == [row % 251 for row in range(500, 2500)]
    assert splits.train.y.tolist() == [row % 2 for row in range(500, 2500)]
    assert (len(splits.validation), len(splits.test)) == (500, 100)
    assert splits.train.classes == ("plain", "striped")
    about = {"source": "flaxfit_flags", "version": "1.0.0", "part": "train", "rows": "500:2500", "note": "from TensorFlow Datasets"}
    record = splits.train.record()
    assert len(record.pop("checksums")["arrays"]) == 64
    assert record == {"count": 2000} | about
    monkeypatch.setattr(flags, "_generate_examples", None)  # the second time nothing is built
    np.testing.assert_array_equal(ff.data.load("flaxfit_flags").test.y, splits.test.y)


def test_a_tfds_data_set_without_a_pair(flags, cache, monkeypatch):
    monkeypatch.setattr(flags, "supervised", False)
    with pytest.raises(ValueError, match=r"no supervised pair.*ff\.data\.Stream\(tfds\.data_source\('flaxfit_flags'.*image, label"):
        ff.data.load("flaxfit_flags")


def test_a_tfds_data_set_that_needs_tensorflow(flags, cache, monkeypatch):
    def rows(*_):
        raise ImportError("No module named 'tensorflow'")
        yield

    monkeypatch.setattr(flags, "_generate_examples", rows)
    with pytest.raises(
        ImportError, match=r"'flaxfit_flags' of TensorFlow Datasets needs TensorFlow to be built or read .*pip install tensorflow-cpu"
    ):
        ff.data.load("flaxfit_flags")


def test_imdb_counts_the_words_of_its_training_reviews(host, cache):
    archive, index = io.BytesIO(), {"good": 1, "film": 2, "bad": 3}
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        train = {"train/pos/0_9": b"Good film, good!", "train/neg/0_1": b"bad film", "train/unsup/0_0": b"unlabeled"}
        for name, text in (train | {"test/pos/0_8": b"good?", "test/neg/0_2": b"awful film"}).items():
            member = tarfile.TarInfo(f"aclImdb/{name}.txt")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    files = {"imdb/aclImdb_v1.tar.gz": archive.getvalue(), "imdb/imdb_word_index.json": json.dumps(index).encode()}
    host.stands_for("imdb", files, {path: hashlib.sha256(content).hexdigest() for path, content in files.items()})
    splits = ff.data.load("imdb", vocabulary=3)
    assert splits.train.features == ("good", "film", "bad")
    assert splits.train.x.tolist() == [[0, 1, 1], [1, 1, 0]]
    assert (splits.train.y.tolist(), splits.test.y.tolist()) == ([0, 1], [0, 1])
    assert splits.test.x.tolist() == [[0, 1, 0], [1, 0, 0]]
