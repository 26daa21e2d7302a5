"""What files of the containers that are read (``container.py``) are called."""

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mj2"),  # mov
    *(".mkv", ".webm", ".mk3d"),  # matroska
    *(".avi", ".divx"),  # avi
    *(".ts", ".mts", ".m2ts", ".m2t"),  # mpegts
    *(".mpg", ".mpeg", ".mpe", ".m2p", ".vob"),  # mpeg
    *(".flv", ".wmv", ".asf"),  # flv, asf
    *(".ogv", ".ogm"),  # ogg; .ogg is sound
)


def is_video_name(path: str) -> bool:
    """Whether a path or URI ends as that of a video file does."""
    return path.lower().endswith(VIDEO_SUFFIXES)
