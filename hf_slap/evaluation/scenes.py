"""Scenes with known events, laid out from single real sounds: what several labels and points in time are judged by."""

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

RATE = 16_000
_MOST_SECONDS = 3.0  # of one sound in a scene
_GAP_SECONDS = (0.3, 1.0)


def lay_out_scenes(corpus: "Dataset", per_class: int = 5, seed: int = 0) -> "Dataset":
    """Scenes of two or three sounds of different classes, one after the other with pauses.

    No clip is heard twice. A sound is cut to 3 s with its end faded out, and all are made equally loud.

    Args:
        corpus: from `load_corpus`, with a column "label".
        per_class: clips of a class that take part, at most.
        seed: of the order.
    Returns:
        Columns "id", "audio" (FLAC, 16 kHz), "labels" (list), "events" (list of {"label", "start", "end"}, seconds).
    """
    import soundfile
    from datasets import Audio, Dataset

    from ..modeling.audio_slap import load_waveform

    rng = np.random.default_rng(seed)
    by_class: dict[str, list[int]] = {}
    for row in rng.permutation(len(corpus)).tolist():
        members = by_class.setdefault(corpus[row]["label"], [])
        if len(members) < per_class:
            members.append(row)
    left = {label: by_class[label] for label in sorted(by_class)}
    columns: dict[str, list] = {"id": [], "audio": [], "labels": [], "events": []}
    while len(left) >= 2:
        # the classes with most clips left come first, so that few are left over
        order = sorted(left, key=lambda label: (-len(left[label]), rng.random()))
        parts, events, now = [], [], 0.0
        for label in order[: int(rng.integers(2, 4))]:
            gap = rng.uniform(*_GAP_SECONDS)
            sound = _sound(load_waveform(corpus[left[label].pop()]["audio"], RATE))
            parts += [np.zeros(round(gap * RATE), np.float32), sound]
            start = now + round(gap * RATE) / RATE
            now = start + len(sound) / RATE
            events.append({"label": label, "start": start, "end": now})
        parts.append(np.zeros(round(_GAP_SECONDS[0] * RATE), np.float32))
        left = {label: rows for label, rows in left.items() if rows}
        file = io.BytesIO()
        soundfile.write(file, np.concatenate(parts), RATE, format="FLAC", subtype="PCM_16")
        name = f"scene-{len(columns['id']):04d}"
        columns["id"].append(name)
        columns["audio"].append({"bytes": file.getvalue(), "path": f"{name}.flac"})
        columns["labels"].append([event["label"] for event in events])
        columns["events"].append(events)
    return Dataset.from_dict(columns).cast_column("audio", Audio(decode=False))


def _sound(waveform: np.ndarray) -> np.ndarray:
    cut = waveform[: round(_MOST_SECONDS * RATE)].copy()
    fade = min(len(cut), RATE // 20)
    if len(cut) < len(waveform):
        cut[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    level = float(np.sqrt(np.mean(cut**2)))
    return np.clip(cut * (0.05 / max(level, 1e-5)), -1.0, 1.0)
