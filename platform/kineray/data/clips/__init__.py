"""From a sample to the uint8 pixels of its clips: the times of its frames, their geometry, decoding."""
