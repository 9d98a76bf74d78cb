"""A search: its space, its trials, and the append-only record they are replayed from."""
