"""Data sets rendered from a seed, so that the demo and the tests need no download."""
