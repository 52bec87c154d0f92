"""What media costs a runner: `python -m runner.bench`."""
