"""The feature cache: what a frozen backbone computes of each clip, computed once and read by many runs."""
