"""Whether a run that is killed and resumed is, bit for bit, the run that was never stopped."""
