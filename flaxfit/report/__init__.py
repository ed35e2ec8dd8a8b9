"""What a run gave: history, diagnosis, plots."""
