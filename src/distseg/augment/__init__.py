"""Augmentation: named policies, drawn for each sample from its own key."""
