"""`python -m ogen` is `ogen`."""

from .cli import main

main()
