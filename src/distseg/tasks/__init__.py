"""What a task means: its targets, its decoding from logits to labels, and its metrics."""
