"""What makes one clip of many frames: configurations of the temporal subsystems, one module for each."""
