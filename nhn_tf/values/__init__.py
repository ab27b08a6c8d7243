"""Frozen values of the method: space, genotype, masks, locations; standard library and NumPy only."""
