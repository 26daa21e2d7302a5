"""From a sample to the uint8 pixels of its clips: timestamps, geometry, decoding and augmentation."""
