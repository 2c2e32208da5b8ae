"""Recall and false positives of the fingerprint on copies of real clips, beside Chromaprint where it is installed.

    python examples/measure_fingerprint.py OUT CORPUS [CORPUS ...] [--queries 200]

Copies are made of some clips of the corpora and looked for among all of them. A find that is not the source counts
as false unless the two originals, compared over the whole band at their best lag, correlate by 0.9: corpora hold real
duplicates. Leaves OUT/fingerprint.json and OUT/fingerprint.md.
"""

import argparse
import io
import json
import time
from datetime import date
from pathlib import Path

import numpy as np
import soundfile
import soxr

from hf_slap.data import fingerprint as fp
from hf_slap.data import load_corpus
from hf_slap.data.merging import SAME_PART
from hf_slap.modeling.audio_slap import load_waveform

SAME = 0.9  # correlation of two originals from which on they count as the same recording


def encoded(waveform: np.ndarray, rate: int, format: str, subtype: str, level: float) -> np.ndarray:
    file = io.BytesIO()
    at_rate = soxr.resample(waveform, fp.RATE, rate)
    soundfile.write(file, np.clip(at_rate, -1, 1), rate, format=format, subtype=subtype, compression_level=level)
    return load_waveform(file.getvalue(), fp.RATE)


def opus(waveform: np.ndarray, level: float = 0.99) -> np.ndarray:
    return encoded(waveform, 16_000, "OGG", "OPUS", level)


def trimmed(waveform: np.ndarray) -> np.ndarray:
    return waveform[len(waveform) * 15 // 100 + 37 : len(waveform) * 9 // 10]


def noisy(waveform: np.ndarray, decibels: float) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(len(waveform)).astype(np.float32)
    return waveform + np.sqrt(np.mean(waveform**2)) * 10 ** (-decibels / 20) * noise


COPIES = {
    "Opus, 16 kbit/s": lambda clip: opus(clip, 0.95),
    "Opus, 7 kbit/s": opus,
    "Opus, 5 kbit/s": lambda clip: opus(clip, 1.0),
    "MP3, 33 kbit/s, 44.1 kHz": lambda clip: encoded(clip, 44_100, "MP3", "MPEG_LAYER_III", 0.99),
    "MP3, 12 kbit/s, 8 kHz": lambda clip: encoded(clip, 8_000, "MP3", "MPEG_LAYER_III", 0.99),
    "8 kHz": lambda clip: soxr.resample(soxr.resample(clip, fp.RATE, 8_000), 8_000, fp.RATE),
    "48 kHz and back": lambda clip: soxr.resample(soxr.resample(clip, fp.RATE, 48_000), 48_000, fp.RATE),
    "-20 dB, 16 bits": lambda clip: np.round(clip * 3276.8).astype(np.float32) / 32768,
    "15 % of head, 10 % of tail off": trimmed,
    "second half only": lambda clip: clip[len(clip) // 2 - 80 :],
    "white noise at 20 dB SNR": lambda clip: noisy(clip, 20),
    "trimmed, -10 dB, 25 dB SNR, Opus 7 kbit/s": lambda clip: opus(noisy(0.3 * trimmed(clip), 25)),
}


def originals_correlate(one: np.ndarray, other: np.ndarray) -> float:
    """Of the whole band, at the best lag, over the energy of the quieter side's overlap; at most 1."""
    size = 1 << (len(one) + len(other)).bit_length()
    product = np.fft.irfft(np.fft.rfft(one, size).conj() * np.fft.rfft(other, size), size)
    lag = int(np.abs(product).argmax())
    lag = lag - size if lag >= len(other) else lag  # where in `other` `one` begins
    start, stop = max(0, -lag), min(len(one), len(other) - lag)
    power = np.sum(one[start:stop] ** 2) * np.sum(other[start + lag : stop + lag] ** 2)
    return float(abs(product[lag]) / np.sqrt(power)) if power > 0 else 0.0


def chromaprint(waveform: np.ndarray) -> np.ndarray:
    """Raw Chromaprint of a clip: (T,) uint32, empty where the library hears too little of it."""
    import chromaprint as library

    printer = library.Fingerprinter()
    printer.start(fp.RATE, 1)
    printer.feed(np.round(np.clip(waveform, -1, 1) * 32767).astype("<i2").tobytes())
    codes, _ = library.decode_fingerprint(printer.finish())
    return np.array(codes, np.uint32)


def chromaprint_finds(query: np.ndarray, others: list[np.ndarray], threshold: float) -> list[int]:
    """Clips whose codes agree with the query's by `threshold` at some offset over at least half of the shorter."""
    found = []
    for clip, other in enumerate(others):
        best, need = 0.0, max(1, min(len(query), len(other)) // 2)
        for shift in range(need - len(query), len(other) - need + 1) if len(query) and len(other) else ():
            start, stop = max(0, -shift), min(len(query), len(other) - shift)
            different = np.bitwise_xor(query[start:stop], other[start + shift : stop + shift])
            best = max(best, 1 - np.unpackbits(different.view(np.uint8)).mean())
        if best >= threshold:
            found.append(clip)
    return found


def share(rows: list[dict], least: float) -> float:
    """Of copies whose source is found with this evidence."""
    return float(np.mean([fp.evidence(row["signature"], row["correlation"]) >= least for row in rows] or [np.nan]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("corpus", nargs="+")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="which clips are copied; the thresholds were set with 0")
    parser.add_argument("--chromaprint", type=int, default=0, help="of so many clips; compares all with all")
    arguments = parser.parse_args()

    clips, domains = [], []
    for source in arguments.corpus:
        corpus = load_corpus(source)
        for row in corpus:
            clips.append(load_waveform(row["audio"], fp.RATE))
            domains.append(row.get("domain") or Path(source).stem)
    seconds = np.array([len(clip) / fp.RATE for clip in clips])

    begun = time.perf_counter()
    prints = [fp.fingerprint(clip) for clip in clips]
    printing = time.perf_counter() - begun
    index = fp.build_index(((str(clip), one) for clip, one in enumerate(prints)), arguments.out / "index")
    building = time.perf_counter() - begun - printing
    queries = np.random.default_rng(arguments.seed).permutation(len(clips))[: arguments.queries]

    truth: dict[tuple[int, int], float] = {}
    rows, finds, searching, searches = [], [], 0.0, 0
    for name, copy in COPIES.items():
        for source in map(int, queries):
            changed = copy(clips[source])
            begun = time.perf_counter()
            matches = index.search(fp.fingerprint(changed))
            searching, searches = searching + time.perf_counter() - begun, searches + 1
            row = {"copy": name, "clip": source, "domain": domains[source], "seconds": seconds[source]}
            row |= {"signature": 0.0, "correlation": 0.0, "pairs": 0}
            for match in matches:
                correlation = fp.correlate(changed, clips[match.clip], match.offset)
                if match.clip == source:
                    row |= {"signature": match.signature, "correlation": correlation}
                    continue
                row["pairs"] += 1
                pair = (min(source, match.clip), max(source, match.clip))
                if pair not in truth:
                    truth[pair] = originals_correlate(clips[pair[0]], clips[pair[1]])
                finds.append(
                    {
                        **{"copy": name, "clip": source, "found": match.clip, "domain": domains[source]},
                        **{"signature": match.signature, "correlation": correlation, "overlap": match.overlap},
                        **{"originals": truth[pair], "seconds": seconds[source]},
                        **{"found_seconds": seconds[match.clip]},
                    }
                )
            rows.append(row)
        print(name, flush=True)

    facts = {
        "date": date.today().isoformat(),
        "clips": len(clips),
        "hours": float(seconds.sum() / 3600),
        "queries": len(queries),
        "fingerprint_seconds_per_second_of_sound": printing / float(seconds.sum()),
        "index_build_seconds": building,
        "index_bytes_per_second_of_sound": sum(f.stat().st_size for f in (arguments.out / "index").iterdir())
        / float(seconds.sum()),
        "search_seconds": searching / searches,
        "rows": rows,
        "finds": finds,
    }
    levels = {"leak": fp.LEAK_EVIDENCE, "merge": fp.MERGE_EVIDENCE}
    lines = ["| copy | found as candidate | as leak | as leak, clips under 0.6 s | as the same clip (merging) |"]
    lines += ["|---|---|---|---|---|"]
    for name in [*COPIES, None]:
        some = [row for row in rows if name in (None, row["copy"])]
        short = [row for row in some if row["seconds"] < 0.6]
        cells = [np.mean([row["signature"] > 0 for row in some]), share(some, levels["leak"])]
        cells += [share(short, levels["leak"]), share(some, levels["merge"])]
        lines.append(f"| {name or 'all'} | {' | '.join(f'{cell:.3f}' for cell in cells)} |")
    lines += [
        "",
        "| domain | queries | false leaks | false in merging | real duplicates met |",
        "|---|---|---|---|---|",
    ]
    for domain in [*dict.fromkeys(domains), None]:
        total = sum(domain in (None, row["domain"]) for row in rows)
        mine = [find for find in finds if domain in (None, find["domain"])]
        false = [find for find in mine if find["originals"] < SAME]
        whole = [find for find in false if find["overlap"] >= SAME_PART * max(find["seconds"], find["found_seconds"])]
        leaks, merges = (
            sum(fp.evidence(find["signature"], find["correlation"]) >= level for find in some)
            for some, level in ((false, levels["leak"]), (whole, levels["merge"]))
        )
        lines.append(f"| {domain or 'all'} | {total} | {leaks} | {merges} | {len(mine) - len(false)} |")

    if arguments.chromaprint:
        some = [int(source) for source in queries[: arguments.chromaprint]]
        codes = [chromaprint(clips[source]) for source in some]
        heard = [position for position, one in enumerate(codes) if len(one)]
        lines += [
            "",
            f"Chromaprint gives a code for {len(heard)} of {len(some)} clips; each is compared with all others.",
        ]
        lines += [
            "",
            "| copy, agreement of its bits | recall | of clips with a code | false finds |",
            "|---|---|---|---|",
        ]
        for name, copy in COPIES.items():
            changed = [chromaprint(copy(clips[source])) for source in some]
            for threshold in (0.75, 0.85):
                found = [chromaprint_finds(one, codes, threshold) for one in changed]
                right = [position in one for position, one in enumerate(found)]
                false = sum(
                    originals_correlate(clips[some[position]], clips[some[other]]) < SAME
                    for position, one in enumerate(found)
                    for other in one
                    if other != position
                )
                of_heard = np.mean([right[position] for position in heard])
                lines.append(f"| {name}, {threshold} | {np.mean(right):.3f} | {of_heard:.3f} | {false} |")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "fingerprint.json").write_text(json.dumps(facts, indent=1, default=float))
    (arguments.out / "fingerprint.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    print({name: value for name, value in facts.items() if name not in ("rows", "finds")})


if __name__ == "__main__":
    main()
