"""Data sets, their order, their sources."""
