"""Runs and models on disk: run directories, checkpoints, populations and exported models."""
