"""The ranking of trials, a pure function of their records."""
