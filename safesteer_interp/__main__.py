"""`python -m safesteer_interp` is the command line."""

from __future__ import annotations

import sys

from safesteer_interp.cli import main

sys.exit(main())
