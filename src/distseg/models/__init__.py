"""Networks: our own U-Net and the one mapping from a config to a module."""
