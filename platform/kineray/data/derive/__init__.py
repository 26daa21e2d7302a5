"""What is made of a manifest: checked, measured, split, re-encoded and flow copies, and made videos."""
