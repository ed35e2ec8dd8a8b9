"""Many runs: grids, populations, cross-validation, ensembles, searches."""
