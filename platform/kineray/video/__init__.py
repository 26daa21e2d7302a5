"""A file and some timestamps -> uint8 frames."""

from kineray.video.decode import Video, VideoInfo, open_video, probe, read_clip

__all__ = ["Video", "VideoInfo", "open_video", "probe", "read_clip"]
