"""The command line: one module a command group; parse, one call, render."""
