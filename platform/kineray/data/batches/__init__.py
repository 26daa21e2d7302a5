"""The order of samples, and batches of their clips, decoded ahead."""
