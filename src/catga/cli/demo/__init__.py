"""`python -m catga.cli.demo`: a cluster of four processes on this machine, step by step."""
