"""`python -m swarm.cli`: the same command where no script is installed."""

from swarm.cli import main

main()
