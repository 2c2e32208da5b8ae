"""Search a sound library: an index of folders of sounds, asked by words or by an example.

Why SQLite and faiss (looked at in November 2026, beside LanceDB 0.40): which file holds what, and its vectors, must
change together, or a crash or a second process leaves one without the other. SQLite does that in one transaction of
one file, is part of Python, and readers and writers take turns by its locks. LanceDB commits each table by itself, lets
a writer that is overtaken fail after some retries, keeps a version per commit that must be cleaned up, and brings
fifteen packages (187 MB unpacked, and 170 MB of pyarrow); faiss-cpu is one wheel for Python 3.10 and later (66 MB) that
needs NumPy and packaging. faiss keeps no metadata and survives no crash by itself, so it gets only what can be computed
again at any time: the index of neighbours. A library below 65,536 windows needs no faiss at all.
"""

from .index import DEFAULT_FOLDER, Match, SoundIndex, Update

__all__ = ["DEFAULT_FOLDER", "Match", "SoundIndex", "Update"]
