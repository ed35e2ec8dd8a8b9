"""Makes RESULTS.md and its pictures from the pages that the studies left in their run directories.

A study without a page is named on standard error, and RESULTS.md says that it was left out. It takes a second or two.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from flaxfit.cli import script


@dataclass(frozen=True)
class Config:
    """Options."""

    runs: Path = Path("runs")
    """The directory of the studies' run directories."""
    out: Path = Path("RESULTS.md")
    """The file to write. Pictures go to docs/results beside it, those of earlier results are removed."""


STUDIES = (
    "overfit_and_underfit",
    "imdb_capacity",
    "imdb_regularizers",
    "mnist_few_samples",
    "mnist_early_stopping",
    "batch_norm",
    "sonar",
    "shrinkage",
    "save_and_restore",
)
LIMIT = 5_000_000  # bytes of all pictures
HEAD = """# Results

`python experiments/results.py` made this page from what the studies recorded. Scores are means with 95% intervals; the number in brackets
is the number of runs. A claim *held* or *did not hold* if the statistic beside it decides, else it is *undecided*. The claims are those
of the sources, made exact. Bounds in brackets are ours, and so are claims about programs that agree, about single runs (percentiles,
ranges), and about fixes that a source only names. Times include all starts of a study. Some studies shared the two cores with others.

In comparisons, *difference* is the second setting minus the first, over common seeds or splits if there are any. *effect* is Cohen's d,
the difference divided by its standard deviation. *better in* is the share of pairs in which the second setting is better. *p* is from the
paired t-test and *by ranks* from Wilcoxon's signed-rank test, both two-sided.
"""


def main(config: Config) -> None:
    import os
    import re

    from pages import markdown

    home, sections, pictures = config.out.parent, [HEAD], {}
    found = [name for name in STUDIES if (config.runs / name / "page.json").is_file()]
    for name in STUDIES:
        directory = config.runs / name
        if name not in found:
            print(f"{directory} holds no page.json: experiments/{name}.py has not come to its end.", file=sys.stderr)
            sections.append(f"## {name}\n\nLeft out: `experiments/{name}.py` has not come to its end.\n")
            continue

        def moved(link: re.Match[str], directory: Path = directory) -> str:
            file = f"{directory.name}_{link[1]}"
            pictures[file] = smaller(directory / "plots" / link[1])
            return f"(docs/results/{file})"

        plots = re.escape(Path(os.path.relpath(directory, home)).as_posix()) + "/plots/"
        sections.append(re.sub(rf"\({plots}([^()]+)\)", moved, markdown([directory], home)))
    if (size := sum(map(len, pictures.values()))) > LIMIT:
        raise SystemExit(f"the pictures take {size:,} bytes, and may take {LIMIT:,}: make fewer, or smaller ones.")
    folder = home / "docs" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    for old in set(folder.glob("*.png")) - {folder / file for file in pictures}:
        old.unlink()
    for file, content in pictures.items():
        (folder / file).write_bytes(content)
    config.out.write_text("\n".join(sections), encoding="utf-8")
    print(f"{config.out}: {len(found)} of {len(STUDIES)} studies, {len(pictures)} pictures of {size:,} bytes")


def smaller(path: Path) -> bytes:
    """A PNG of 64 colors: lines and letters need no more."""
    import io

    from PIL import Image

    data = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
    return data.getvalue()


if __name__ == "__main__":
    script(main, Config, __doc__)
