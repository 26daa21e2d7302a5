"""What is made from a manifest: checks, statistics, splits, re-encoded copies, flow; and synthetic sets."""
