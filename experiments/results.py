"""Makes the pages in docs/results, with their pictures, and the table in RESULTS.md from what the studies left in their run directories.

A study that has not been run here keeps the page that docs/results has of it. What RESULTS.md says above its table, and what a page says
under its title, is written by hand, and stays as it is: read it again. It takes a second or two.
"""

from __future__ import annotations

import re
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
    """The file with the table. Pages and pictures go to docs/results beside it."""


STUDIES = (
    "overfit_and_underfit",
    "overfit_and_underfit_first",
    "higgs_fixes",
    "imdb_capacity",
    "imdb_regularizers",
    "mnist_few_samples",
    "mnist_dropout",
    "mnist_ensembles",
    "mnist_early_stopping",
    "stopping_rules",
    "mnist_search",
    "optimizer_pairs",
    "batch_norm",
    "initial_scale",
    "training_size",
    "training_size_hard",
    "sonar",
    "leakage",
    "cross_validation",
    "causes",
    "shrinkage",
    "polynomials",
    "save_and_restore",
    "share_weights",
    "save_costs",
    "errata",
)
LIMIT = 5_000_000  # bytes of all pictures
HEADING = "## Studies"


def main(config: Config) -> None:
    from pages import VERDICTS, markdown

    folder = config.out.parent / "docs" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    written = [name for name in STUDIES if (config.runs / name / "page.json").is_file()]
    for name in written:
        others = tuple(f"{other}_" for other in STUDIES if other.startswith(f"{name}_"))
        for old in folder.glob(f"{name}_*.png"):
            if not old.name.startswith(others):
                old.unlink()
        for picture in sorted((config.runs / name / "plots").glob("*.png")):
            (folder / f"{name}_{picture.name}").write_bytes(smaller(picture))
        path = folder / f"{name}.md"
        path.write_text(markdown(config.runs / name, f"{name}_", found(path)), encoding="utf-8")
    if (size := sum(path.stat().st_size for path in folder.glob("*.png"))) > LIMIT:
        raise SystemExit(f"the pictures take {size:,} bytes, and may take {LIMIT:,}: make fewer, or smaller ones.")

    lines = [HEADING, "", "| study | " + " | ".join(VERDICTS.values()) + " |", "| --- " * (1 + len(VERDICTS)) + "|"]
    for name in STUDIES:
        path = folder / f"{name}.md"
        if not path.is_file():
            print(f"{path} is missing: its study has not come to its end.", file=sys.stderr)
            continue
        page = path.read_text(encoding="utf-8")
        counts = [len(re.findall(rf"^\|.* \| \*\*{verdict}\*\* \| ", page, re.MULTILINE)) for verdict in VERDICTS.values()]
        lines.append(f"| [{page.splitlines()[0][2:]}](docs/results/{name}.md) | " + " | ".join(map(str, counts)) + " |")
    kept = config.out.read_text(encoding="utf-8").split(HEADING)[0] if config.out.is_file() else "# Results\n\n"
    config.out.write_text(kept + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{config.out}: {len(lines) - 4} of {len(STUDIES)} studies, {len(written)} written anew; pictures: {size:,} bytes")


def found(path: Path) -> str:
    """What somebody wrote on a page under its title: what stands before its first picture, or before what was done."""
    from pages import SETTING

    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    below = page.partition("\n")[2]
    return re.split(rf"^!\[|^{re.escape(SETTING)}", below, maxsplit=1, flags=re.MULTILINE)[0].strip() if SETTING in page else ""


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
