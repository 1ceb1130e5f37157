"""``python -m symkern``: the command line."""

from symkern.cli import main

raise SystemExit(main())
