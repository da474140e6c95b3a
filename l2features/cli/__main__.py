"""``python -m l2features.cli``."""

from . import main

main()
