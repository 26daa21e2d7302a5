"""What a run will take, predicted before it is paid for: a measured graph, assumptions, and arithmetic."""
