"""Which files are sounds, and where they lie: a file, a folder or a glob."""

import glob
import os
from pathlib import Path

AUDIO_SUFFIXES = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .caf .w64 .rf64 .m4a .aac .wma .mp4 .mov .mkv .webm".split()
)


def find_sound_files(path: str | os.PathLike) -> tuple[list[str], list[str]]:
    """Ids and paths of the sound files of a folder or a glob, in order of their paths.

    Args:
        path: a folder, searched to the bottom for files with one of `AUDIO_SUFFIXES`, ids being the paths inside it;
            or a file or a glob, taken whatever the suffix, ids being the paths.
    Raises:
        FileNotFoundError: nothing there.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        ids = [
            file.relative_to(path).as_posix()
            for file in path.rglob("*")
            if file.suffix.lower() in AUDIO_SUFFIXES and not file.name.startswith(".") and file.is_file()
        ]
        if not ids:
            raise FileNotFoundError(f"no sound file in folder {str(path)!r}; known are {sorted(AUDIO_SUFFIXES)}")
        ids.sort()
        return ids, [str(path / file) for file in ids]
    files = [str(path)] if path.is_file() else sorted(filter(os.path.isfile, glob.glob(str(path), recursive=True)))
    if not files:
        raise FileNotFoundError(f"no file, folder or glob {str(path)!r} (in {os.getcwd()!r})")
    return files, files
