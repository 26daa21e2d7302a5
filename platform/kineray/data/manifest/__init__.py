"""The samples of a data set as columns, their file, and the packet indexes beside it."""
