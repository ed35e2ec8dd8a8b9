"""The command `flaxfit`: from a file to an answer, and what runs and models say."""

import time

BEGAN = time.monotonic()
"""When the command was started, from which a time budget counts."""

from flaxfit.cli.main import main as main  # noqa: E402
from flaxfit.cli.main import script as script  # noqa: E402
