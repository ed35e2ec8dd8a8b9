"""The line that is updated in place, on terminals of several widths."""

from __future__ import annotations

import io
import re

import optax
import pytest
from rich.cells import cell_len

import flaxfit as ff
from flaxfit.callbacks.line import Line, Status, pace

VALUES = ("val_loss 0.2033, best 0.1883 in epoch 46", "0.2033, best 0.1883 in epoch 46", "best 0.1883 in epoch 46", "best 0.1883")
LONG = (f"val_categorical_crossentropy {VALUES[1]}", *VALUES[1:])


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("name", ["training", "dropout=0.5,l2=0.001,hidden=128-128,seed=3"])
@pytest.mark.parametrize("values", [VALUES, LONG])
def test_the_best_value_is_in_sight_whatever_the_width(name, values):
    for width in range(30, 200):
        line = Status(name, 46, 200, "20.9 s/epoch", 3219.4, values).fitted(width).plain
        assert cell_len(line) <= width
        assert "best 0.1883" in line
        assert " 46/200" in line


def test_what_80_and_60_columns_show():
    status = Status("training", 46, 200, "20.9 s/epoch", 3219.4, LONG)
    assert status.fitted(80).plain == "training  ━────   46/200  20.9 s/epoch  0:53:39  0.2033, best 0.1883 in epoch 46"
    assert status.fitted(60).plain == "training  ━──────   46/200  0:53:39  best 0.1883 in epoch 46"
    assert Status("seeds", 3, 8, left=61.0).fitted(60).plain == "seeds  ━━━━━━━─────────────  3/8  0:01:01"


def test_the_bar_on_a_terminal_of_80_columns(net, table, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    task = ff.Task(net(), ff.losses.binary_crossentropy, optax.adam(1e-2))
    file = Terminal()
    ff.fit(task, table[0], validation=table[1], epochs=60, callbacks=[ff.callbacks.ProgressBar(file=file)])
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    *frames, last = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert all(len(frame) <= 80 for frame in frames)
    assert all("best 0." in frame for frame in frames[1:])
    assert re.fullmatch(r"training: epoch 60/60, [\d.]+ ms/epoch, val_binary_crossentropy [\d.]+, best [\d.]+ in epoch \d+", last)


def test_plain_lines_where_nothing_can_be_updated(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("flaxfit.callbacks.line.time.monotonic", lambda: clock[0])
    file = io.StringIO()
    line = Line(file)
    for second in range(25):
        clock[0] = float(second)
        line.show(Status("run", second, 25), f"run: {second}")
    line.end("run: [done]")
    assert file.getvalue() == "run: 11\nrun: 22\nrun: [done]\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.47e-4, "0.347 ms"), (0.9994, "999 ms"), (0.9999, "1 s"), (20.9, "20.9 s"), (119.0, "119 s"), (754, "12.6 min"), (9000, "2.5 h")],
)
def test_the_time_of_an_epoch_is_short_to_read(seconds, text):
    assert pace(seconds) == f"{text}/epoch"
