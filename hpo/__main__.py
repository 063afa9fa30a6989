"""`python -m hpo` is `hpo`."""

from hpo.cli import main

main(prog_name="hpo")
