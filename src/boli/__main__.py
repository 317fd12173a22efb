"""`python -m boli` is `boli`."""

from boli.cli import main

main()
