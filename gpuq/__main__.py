"""`python -m gpuq`: the same as the command `gpuq`."""

from __future__ import annotations

import sys

from gpuq.cli import main

sys.exit(main())
