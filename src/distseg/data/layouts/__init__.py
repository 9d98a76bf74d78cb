"""Raw data sets on disk. A layout is one module with ``read(source) -> Corpus``."""
