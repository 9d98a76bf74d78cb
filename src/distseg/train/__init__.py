"""One training run: the state, the loop, and the worker it runs on."""
