"""What a notebook shows: the one of the documentation, executed in a kernel."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
PRINTED = """
print(study)
print(study.table())
print(ff.data.Table({"age": [20.0, None, 40.0], "city": ["Rome", "Oslo", "Rome"], "sold": ["yes", "no", "no"]}, "sold"))
"""
UPDATES = """
from IPython import get_ipython
shown, kernel = [], get_ipython().kernel
send = kernel.session.send
kernel.session.send = lambda stream, message, *rest, **more: (shown.append(message), send(stream, message, *rest, **more))[1]
class Sleeps(ff.callbacks.Callback):
    every_epochs = 1
    def on_chunk_end(self, progress):
        __import__("time").sleep(0.3)
short = {"validation": splits.validation, "epochs": 4, "batch_size": 50}
ff.fit(plain, splits.train, callbacks=[Sleeps(), ff.callbacks.ProgressBar()], **short)
kernel.session.send = send
print(*[each if isinstance(each, str) else each["header"]["msg_type"] for each in shown])
"""


@pytest.fixture(scope="module")
def executed():
    notebook = nbformat.read(NOTEBOOK, 4)
    notebook.cells += [nbformat.v4.new_code_cell(PRINTED), nbformat.v4.new_code_cell(UPDATES)]
    NotebookClient(notebook, resources={"metadata": {"path": str(NOTEBOOK.parents[1])}}, timeout=600, coalesce_streams=True).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_results_figures_and_bars_show_themselves_once(executed):
    shown = [[sorted(output.get("data", {"stream": output.get("text")})) for output in cell.outputs] for cell in executed]
    table, figure = ["text/html", "text/plain"], ["image/png", "text/plain"]
    bar_and_table = [table, table]
    assert shown[:-2] == [[table], bar_and_table, [table], [figure], bar_and_table, [table], [figure]]
    assert shown[-2] == [["stream"]]


def test_tables_are_html_and_in_text_what_print_says(executed):
    leakage, fit, diagnosis, _, study, comparison, _ = ([output.data for output in cell.outputs] for cell in executed[:-2])
    assert '<th scope="col">validation</th>' in leakage[0]["text/html"]
    assert "repeated rows" in leakage[0]["text/plain"]
    assert "plain: epoch 200/200" in fit[0]["text/html"]
    assert '<th scope="col">last epoch (200)</th>' in fit[1]["text/html"]
    assert "slightly overfitted from epoch" in diagnosis[0]["text/html"]
    assert diagnosis[0]["text/plain"].startswith("slightly overfitted from epoch")
    assert "seeds: 8/8 members" in study[0]["text/plain"]
    assert "dropout=0.5 is better than dropout=0.0" in comparison[0]["text/html"]
    printed = executed[-2].outputs[0].text
    assert study[1]["text/plain"] in printed
    assert "┃ dropout ┃ runs ┃ mean, 95% interval ┃" in printed
    assert "3 rows to predict sold" in printed


def test_the_bar_is_updated_in_place(executed):
    bar, messages = executed[-1].outputs
    assert bar.data["text/plain"].startswith("training: epoch 4/4, ")
    assert messages.text.split().count("display_data") == 1
    assert messages.text.split().count("update_display_data") >= 1
