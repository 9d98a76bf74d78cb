"""What a machine or a cluster can do for distseg, and what is missing: small probes, each returning findings."""
