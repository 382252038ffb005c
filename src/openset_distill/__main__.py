"""`python -m openset_distill` is the command `openset`."""

from .cli import main

main()
