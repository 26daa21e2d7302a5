"""What a data set holds: samples as columns, their file, and the packet indexes beside it."""
