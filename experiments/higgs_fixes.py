"""Shows on HIGGS what other fixes do for the large network: AdamW's weight decay, batch norm, and noise on the inputs, beside L2.

It shares its runs with `overfit_and_underfit.py`. Each seed takes 8 minutes on 2 cores, where that study has not trained Large and L2
already. The same command resumes what was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import higgs
from higgs import LOSS
from pages import Page

import flaxfit as ff
from flaxfit.cli import script


@dataclass(frozen=True)
class Config(higgs.HiggsConfig):
    """Options."""

    run_dir: Path = Path("runs/higgs_fixes")
    """The directory for plots and the page of results."""


FIXES = ("AdamW", "batch norm", "noise")
NETS = ("Large", "L2", *FIXES)
MARGIN = 0.005  # nats, as in overfit_and_underfit.py
ABOUT = """{rows}. {setting} Large has 4 x 512 units, *L2* is 0.001 on the hidden kernels. *AdamW* has a decoupled weight decay of
    {decay:g}, which shrinks a weight about as much as L2 0.001 does after Adam's scaling. *noise* adds Gaussian noise of standard deviation
    {noise:g} to the training examples, where the features have 0.8. Scores are the cross-entropy at the best epoch on 4,978 test rows that
    neither trained nor chose anything; intervals cover seeds and rows."""


def main(config: Config) -> None:
    data = higgs.splits(config)
    about = ABOUT.format(rows=higgs.ROWS[config.rows], setting=higgs.SETTING, decay=higgs.DECAY, noise=higgs.NOISE)
    with Page("HIGGS: other fixes", config.run_dir, about) as page:
        runs = higgs.trained(config, NETS, data)
        study = higgs.together(runs)

        def compared(a: str, b: str, margin: float | None = None) -> ff.statistics.Comparison:
            return study.compare({"net": a}, {"net": b}, LOSS, "best", data=data.test, margin=margin)

        for net in FIXES:
            page.claim("source", f"{net} helps Large", compared("Large", net))
        said = f"AdamW's decay does as well as L2 (within {MARGIN:g})"
        page.claim("ours", said, compared("L2", "AdamW", MARGIN), wanted="equivalent")
        for net in FIXES[1:]:
            page.claim("ours", f"L2 helps more than {net} does", compared(net, "L2"))
        higgs.table(page, runs, data.test)
        higgs.curves(page, "fixes for the large network", runs, NETS)


if __name__ == "__main__":
    script(main, Config, __doc__)
