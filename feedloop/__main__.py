"""``python -m feedloop``."""

from feedloop.cli import main

main()
