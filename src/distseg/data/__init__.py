"""From raw files to batches: layouts, packing into shards, and the exact stream that reads them back."""
