"""``python -m lmsearcher_local``: the command line."""

from lmsearcher_local.cli.main import run

run()
