"""`python -m flaxfit`."""

import sys

from flaxfit.cli import main

sys.exit(main())
