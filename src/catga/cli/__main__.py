"""``python -m catga.cli`` is ``catga``."""

from catga.cli import main

main()
