"""Which clips are the same recording: exact and near duplicates of sound, from 0.2 s to hours.

Every 10 ms a patch of 240 ms of log-mel (24 bands, 150 to 3,700 Hz, so that a copy at 8 kHz has them all; the 30 dB
below its loudest cell) is transformed by a two-dimensional cosine transform. The signs of its 64 lowest coefficients
are the frame's signature; which five of them are largest, with their signs, is its hash. Copies share enough
hashes to be found, at one offset, through an inverted index on the disk; then the aligned signatures and waveforms
decide. examples/measure_fingerprint.py measures it, beside Chromaprint.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

RATE = 16_000  # Hz, of every waveform here
HOP = 160  # samples from frame to frame
MIN_SIGNATURE = 0.68  # share of signs that agree: below it a candidate is dropped unheard
# Evidence from which on a match is a copy. Merging must not join two notes of one pitch; a leak must not slip through.
# The measurements are in examples/EXPERIMENTS.md.
MERGE_EVIDENCE = 1.30
LEAK_EVIDENCE = 1.10
_WINDOW = 1024
_PATCH = 24  # frames
_BANDS = 24
_TIME_ORDERS, _BAND_ORDERS = 5, 13
_LARGEST = 5
_FLOOR_DB = 30.0
_AUDIBLE_DB = 30  # frames further below the loudest of the overlap say nothing
_SILENT_DB = -60
_MIN_AUDIBLE = 8  # frames that must be audible on both sides
_MOST_POSTINGS = 64  # a hash that occurs more often than this is too common to say anything, unless most are
_MOST_CANDIDATES = 64  # offsets of clips that are compared for one query
_BUCKETS = 64
_BLOCK = 4096  # frames transformed at once
_POSTING = np.dtype([("hash", "<u4"), ("clip", "<u4"), ("frame", "<i4")])
FRAME = np.dtype([("hash", "<u4"), ("level", "i1"), ("signature", "<u8")])


class Match(NamedTuple):
    """A clip of the index that holds the same sound as a query.

    Args:
        clip: its number in the index.
        signature: share of agreeing signs, 0.5 by chance.
        offset: seconds of the clip at which the query begins; negative where the clip begins inside the query.
        overlap: seconds that both have.
    """

    clip: int
    signature: float
    offset: float
    overlap: float


@dataclasses.dataclass
class Fingerprint:
    """What identifies a clip: (T,) frames of `hash`, `level` (dB) and `signature`, and the digest of its samples."""

    digest: str
    frames: np.ndarray

    @property
    def seconds(self) -> float:
        return len(self.frames) * HOP / RATE


def digest_samples(waveform: np.ndarray) -> str:
    """32 hexadecimal digits of (n,) samples rounded to 16 bits: equal for exact copies, whatever file they lie in."""
    samples = np.clip(np.round(waveform * 32768), -32768, 32767).astype("<i2")
    return hashlib.blake2b(samples.tobytes(), digest_size=16).hexdigest()


def fingerprint(waveform: np.ndarray) -> Fingerprint:
    """Fingerprint of a clip.

    Args:
        waveform: (n,) float32 at 16 kHz, as `load_waveform` gives it; n > 0.
    Raises:
        ValueError: not a waveform, or an empty one.
    Not stated in the papers; ours.
    """
    waveform = np.asarray(waveform, np.float32)
    if waveform.ndim != 1 or not len(waveform):
        raise ValueError(f"a waveform of shape {waveform.shape}; expected (n,) samples at {RATE} Hz, n > 0")
    log_mel = _log_bands(waveform)  # (T, bands), dB
    edge = np.full((_PATCH // 2, _BANDS), -100.0, np.float32)
    patches = np.lib.stride_tricks.sliding_window_view(np.concatenate([edge, log_mel, edge[1:]]), _PATCH, axis=0)
    frames = np.zeros(len(log_mel), FRAME)
    for start in range(0, len(patches), _BLOCK):
        patch = patches[start : start + _BLOCK]  # (N, bands, time)
        loudest = patch.max(axis=(1, 2))
        clipped = np.maximum(patch - loudest[:, None, None], -_FLOOR_DB)
        coefficients = _BAND_WAVES.T @ clipped @ _TIME_WAVES  # (N, band orders, time orders)
        coefficients = (coefficients.reshape(len(patch), -1)[:, 1:] - _MEAN) / _DEVIATION
        frames["hash"][start : start + _BLOCK] = _hash(coefficients)
        frames["signature"][start : start + _BLOCK] = np.packbits(coefficients > 0, axis=1).view("<u8")[:, 0]
        frames["level"][start : start + _BLOCK] = np.clip(loudest, -100, 100)
    return Fingerprint(digest_samples(waveform), frames)


def compare(query: np.ndarray, other: np.ndarray, offset: int) -> tuple[float, int, int]:
    """The best agreement of signatures near an offset.

    Args:
        query, other: (T,) frames of fingerprints.
        offset: frame of `other` at which `query` begins; two frames around it are tried too.
    Returns:
        share of agreeing signs over the frames audible in both (0 where too few are), the offset, frames that overlap.
    """
    best = (0.0, offset, 0)
    for shift in range(offset - 2, offset + 3):
        start, stop = max(0, -shift), min(len(query), len(other) - shift)
        if stop - start < _MIN_AUDIBLE:
            continue
        ours, theirs = query[start:stop], other[start + shift : stop + shift]
        audible = np.ones(stop - start, bool)
        for level in (ours["level"], theirs["level"]):
            audible &= level > max(int(level.max()) - _AUDIBLE_DB, -90)
        if (count := int(audible.sum())) < _MIN_AUDIBLE:
            continue
        differing = _POPCOUNT[(ours["signature"] ^ theirs["signature"])[audible].view(np.uint8)].sum()
        best = max(best, (1 - float(differing) / (64 * count), shift, stop - start))
    return best


def correlate(query: np.ndarray, other: np.ndarray, offset: float) -> float:
    """Correlation of two waveforms over what they share, where they fit best near an offset.

    Args:
        query, other: (n,), (m,) at 16 kHz.
        offset: seconds of `other` at which `query` begins, as in `Match`; 30 ms around it are tried.
    Returns:
        0 to 1, over 200 to 3,400 Hz with 6 dB per octave of emphasis, so that a common bass alone is not enough. Gain
        and polarity change nothing.
    """
    shift, slack = round(offset * RATE), round(0.03 * RATE)
    start, stop = max(0, -shift), min(len(query), len(other) - shift)
    if stop - start < HOP * _MIN_AUDIBLE:
        return 0.0
    size = 1 << (stop - start + slack - 1).bit_length()
    hz = np.fft.rfftfreq(size, 1 / RATE)
    weight = np.where((hz > 200) & (hz < 3400), hz, 0.0)
    ours = np.fft.rfft(query[start:stop], size) * weight
    theirs = np.fft.rfft(other[start + shift : stop + shift], size) * weight
    power = np.sum(np.abs(ours) ** 2) * np.sum(np.abs(theirs) ** 2)
    if power <= 0:
        return 0.0
    product = np.fft.irfft(ours.conj() * theirs, size) * size / 2
    return float(np.abs(np.concatenate([product[: slack + 1], product[-slack:]])).max() / np.sqrt(power))


class FingerprintIndex:
    """Fingerprints on the disk, found by what they sound like. Built by `build_index`; memory-mapped."""

    def __init__(self, folder: str | os.PathLike):
        """Raises: FileNotFoundError where `build_index` has not finished in this folder."""
        self.folder = folder = Path(folder)
        if not (folder / "index.json").is_file():
            raise FileNotFoundError(f"{str(folder)!r} holds no finished index; make one with build_index")
        about = json.loads((folder / "index.json").read_text())
        self.names: list[str] = (folder / "names.txt").read_text(encoding="utf-8").splitlines()
        self.digests: list[str] = (folder / "digests.txt").read_text().split()
        self._starts = np.fromfile(folder / "starts.i8", "<i8")
        # Plain views: every slice of a memmap object costs as much as comparing a short clip.
        frames, postings = folder / "frames.bin", folder / "postings.bin"
        self._frames = np.asarray(np.memmap(frames, FRAME, "r")) if about["frames"] else np.zeros(0, FRAME)
        self._postings = np.asarray(np.memmap(postings, _POSTING, "r")) if about["postings"] else np.zeros(0, _POSTING)
        self._by_digest: dict[str, list[int]] = {}
        for clip, digest in enumerate(self.digests):
            self._by_digest.setdefault(digest, []).append(clip)

    def __len__(self) -> int:
        return len(self.names)

    def fingerprint(self, clip: int) -> Fingerprint:
        """The fingerprint of a clip of the index."""
        return Fingerprint(self.digests[clip], self._frames[self._starts[clip] : self._starts[clip + 1]])

    def exact(self, query: Fingerprint) -> list[int]:
        """Clips with the same samples."""
        return self._by_digest.get(query.digest, [])

    def same_digest(self) -> Iterator[list[int]]:
        """Groups of clips with the same samples."""
        return (clips for clips in self._by_digest.values() if len(clips) > 1)

    def search(self, query: Fingerprint, without: int | None = None, after: int = -1) -> list[Match]:
        """Clips that may hold the same sound, best first: those whose signatures agree by `MIN_SIGNATURE`.

        Costs at most `_MOST_POSTINGS` postings for each hash of the query and twice `_MOST_CANDIDATES` comparisons,
        whatever the size of the index.

        Args:
            query: of a clip.
            without: a clip that is not looked at, the query itself.
            after: only clips with higher numbers.
        """
        matches: dict[int, Match] = {}
        for clip, offset in self._candidates(query.frames, without, after):
            frames = self._frames[self._starts[clip] : self._starts[clip + 1]]
            score, shift, overlap = compare(query.frames, frames, offset)
            if score >= MIN_SIGNATURE and score > (matches[clip].signature if clip in matches else 0.0):
                matches[clip] = Match(clip, score, shift * HOP / RATE, overlap * HOP / RATE)
        return sorted(matches.values(), key=lambda match: (-match.signature, match.clip))

    def _candidates(self, frames: np.ndarray, without: int | None, after: int) -> list[tuple[int, int]]:
        """(clip, offset in frames) on which the most hashes of the query agree."""
        chosen = np.flatnonzero(_informative(frames))
        hashes = frames["hash"][chosen]
        table = self._postings["hash"]
        first = np.searchsorted(table, hashes, "left")
        count = np.searchsorted(table, hashes, "right") - first
        common = count > _MOST_POSTINGS
        best = self._most_agreed(chosen[~common], first[~common], count[~common], without, after)
        if 2 * common.sum() > np.count_nonzero(count):
            # A sound that has very many copies: the first ones behind `after`.
            first, count, clips = first[common], count[common], self._postings["clip"]
            spans = zip(first, first + count, strict=True)
            passed = np.array([np.searchsorted(clips[start:stop], np.uint32(after + 1)) for start, stop in spans])
            count = np.minimum(count - passed, _MOST_POSTINGS)
            best += self._most_agreed(chosen[common], first + passed, count, without, after)
        return best

    def _most_agreed(
        self, chosen: np.ndarray, first: np.ndarray, count: np.ndarray, without: int | None, after: int
    ) -> list[tuple[int, int]]:
        """The best candidates by some postings of each chosen frame: `count` of them from `first` on."""
        places = np.repeat(first - np.cumsum(count) + count, count) + np.arange(count.sum())
        hits = self._postings[places]
        offsets = hits["frame"].astype(np.int64) - np.repeat(chosen, count)
        kept = (hits["clip"].astype(np.int64) > after) & (hits["clip"] != (-1 if without is None else without))
        clips, offsets = hits["clip"][kept].astype(np.int64), offsets[kept]
        # Offsets that differ by one frame vote together: each votes for two neighbouring bins of two frames.
        bins = np.concatenate([offsets >> 1, (offsets + 1) >> 1])
        votes = np.concatenate([clips, clips]) << 32 | (bins + (1 << 30))
        found, number = np.unique(votes, return_counts=True)
        best = np.argsort(-number, kind="stable")[:_MOST_CANDIDATES]
        return [(int(found[one] >> 32), 2 * (int(found[one] & 0xFFFFFFFF) - (1 << 30))) for one in best]


def build_index(prints: Iterable[tuple[str, Fingerprint]], folder: str | os.PathLike) -> FingerprintIndex:
    """Writes an index. Memory is bounded by one of 64 buckets of its postings.

    Args:
        prints: (name, fingerprint) of each clip; names without line breaks.
        folder: made; an index there is replaced. An interrupted one is not opened.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    starts, total, postings = [0], 0, 0
    buckets = [open(folder / f"bucket-{number:02d}.bin", "wb") for number in range(_BUCKETS)]
    with (
        open(folder / "names.txt", "w", encoding="utf-8") as names,
        open(folder / "digests.txt", "w") as digests,
        open(folder / "frames.bin", "wb") as frames_file,
    ):
        for clip, (name, one) in enumerate(prints):
            if len(name.splitlines()) != 1:
                raise ValueError(f"name {name!r} of a clip must be one line and not empty")
            names.write(name + "\n")
            digests.write(one.digest + "\n")
            frames_file.write(one.frames.tobytes())
            chosen = np.flatnonzero(_informative(one.frames))
            rows = np.zeros(len(chosen), _POSTING)
            rows["hash"], rows["clip"], rows["frame"] = one.frames["hash"][chosen], clip, chosen
            bucket = rows["hash"] >> np.uint32(26)
            for number in np.unique(bucket):
                buckets[number].write(rows[bucket == number].tobytes())
            total, postings = total + len(one.frames), postings + len(rows)
            starts.append(total)
    np.array(starts, "<i8").tofile(folder / "starts.i8")
    with open(folder / "postings.bin", "wb") as sorted_file:
        for bucket in buckets:
            bucket.close()
            rows = np.fromfile(bucket.name, _POSTING)
            sorted_file.write(rows[np.argsort(rows["hash"], kind="stable")].tobytes())
            os.unlink(bucket.name)
    (folder / "index.json").write_text(json.dumps({"frames": total, "postings": postings}))
    return FingerprintIndex(folder)


def is_audible(frames: np.ndarray) -> bool:
    """False for (T,) frames of silence: two of those are no copies of each other."""
    return bool((frames["level"] > _SILENT_DB).any())


def evidence(signature: float, correlation: float) -> float:
    """How sure a match is, 0 to 1.5: the agreement of the signatures and half the correlation of the waveforms."""
    return signature + correlation / 2


def _informative(frames: np.ndarray) -> np.ndarray:
    """(T,) True where a hash begins to hold, and where something is audible at all."""
    if not len(frames):
        return np.zeros(0, bool)
    changed = np.concatenate([[True], frames["hash"][1:] != frames["hash"][:-1]])
    return changed & (frames["level"] > max(int(frames["level"].max()) - 2 * _AUDIBLE_DB, -90))


def _hash(coefficients: np.ndarray) -> np.ndarray:
    """(N, 64) to (N,) uint32: which coefficients are largest, and their signs."""
    largest = np.argpartition(-np.abs(coefficients), _LARGEST, axis=1)[:, :_LARGEST]
    largest.sort(axis=1)
    symbols = 2 * largest + (np.take_along_axis(coefficients, largest, 1) > 0)
    mixed = np.zeros(len(symbols), np.uint64)
    for symbol in symbols.T:
        mixed = mixed * np.uint64(128) + symbol.astype(np.uint64)
    return (mixed * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)).astype(np.uint32)


def _log_bands(waveform: np.ndarray) -> np.ndarray:
    """(n,) to (1 + n // HOP, bands) float32, in dB."""
    padded = np.pad(waveform, _WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::HOP]
    levels = np.empty((len(frames), _BANDS), np.float32)
    for start in range(0, len(frames), _BLOCK):
        spectrum = np.fft.rfft(frames[start : start + _BLOCK] * _HANN)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        levels[start : start + _BLOCK] = 10 * np.log10(power @ _FILTERS + 1e-10)
    return levels


def _band_filters() -> np.ndarray:
    """(513, bands): triangles of equal width on the logarithm of frequency, at least one bin wide."""
    ratio = (3700 / 150) ** (1 / _BANDS)
    centres = 150 * ratio ** (np.arange(_BANDS) + 0.5)
    widths = np.maximum(centres * (ratio - 1), RATE / _WINDOW)
    filters = np.maximum(0, 1 - np.abs(np.fft.rfftfreq(_WINDOW, 1 / RATE)[:, None] - centres) / widths)
    return (filters / filters.sum(axis=0)).astype(np.float32)


def _cosines(length: int, orders: int) -> np.ndarray:
    """(length, orders) of the orthonormal discrete cosine transform."""
    waves = np.cos(np.pi * (np.arange(length)[:, None] + 0.5) * np.arange(orders) / length)
    return (waves * np.sqrt(np.where(np.arange(orders) == 0, 1, 2) / length)).astype(np.float32)


_HANN = np.hanning(_WINDOW).astype(np.float32)
_FILTERS = _band_filters()
_TIME_WAVES, _BAND_WAVES = _cosines(_PATCH, _TIME_ORDERS), _cosines(_BANDS, _BAND_ORDERS)
_POPCOUNT = np.array([bin(value).count("1") for value in range(256)], np.uint8)
# Mean and deviation of the 64 coefficients over 52,490 frames of examples/data/train.parquet, rounded.
_MEAN = np.zeros(64, np.float32)
_MEAN[[0, 2, 3, 4, 5, 9, 14, 19, 24, 29, 39, 49, 54]] = [11, 1, 1, 47, 2, -11, -6, 2, 5, -1, -1, -5, -5]
_DEVIATION = np.array(
    [
        *(
            56,
            31,
            22,
            17,
            90,
            25,
            16,
            12,
            10,
            58,
            17,
            11,
            8,
            7,
            36,
            11,
            8,
            7,
            6,
            26,
            9,
            7,
            6,
            5,
            24,
            9,
            7,
            6,
            5,
            21,
            9,
            7,
        ),
        *(5, 5, 24, 9, 7, 5, 5, 24, 10, 7, 5, 4, 28, 10, 7, 5, 4, 21, 9, 6, 5, 4, 21, 8, 6, 5, 4, 16, 7, 5, 4, 3),
    ],
    np.float32,
)
