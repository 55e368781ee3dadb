"""`python -m jadeberta` is the console script `jadeberta`."""

from jadeberta.cli import main

main()
