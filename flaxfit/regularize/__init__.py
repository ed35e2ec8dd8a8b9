"""Penalties, constraints, masks, proximal steps and averages of weights."""
