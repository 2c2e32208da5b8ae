"""Real clips, changed as the world changes them, are found again; other clips are not."""

import io
import math

import numpy as np
import pytest
import soundfile
import soxr

from hf_slap.data import fingerprint as fp
from hf_slap.modeling.audio_slap import load_waveform


@pytest.fixture(scope="module")
def waveforms(clips) -> list[np.ndarray]:
    return [load_waveform(clip["audio"], fp.RATE) for clip in clips]


@pytest.fixture(scope="module")
def index(waveforms, tmp_path_factory):
    prints = ((f"clip {number}", fp.fingerprint(one)) for number, one in enumerate(waveforms))
    return fp.build_index(prints, tmp_path_factory.mktemp("index"))


def _encoded(waveform, rate, **format) -> np.ndarray:
    file = io.BytesIO()
    at_rate = soxr.resample(waveform, fp.RATE, rate)
    soundfile.write(file, np.clip(at_rate, -1, 1), rate, **format)
    return load_waveform(file.getvalue(), fp.RATE)


COPIES = {
    "opus": lambda one: _encoded(one, 16_000, format="OGG", subtype="OPUS", compression_level=0.95),
    "mp3": lambda one: _encoded(one, 44_100, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.99),
    "8 kHz": lambda one: _encoded(one, 8_000, format="WAV", subtype="PCM_16"),
    "quiet": lambda one: np.round(one * 3000) / 32768,
    "trimmed": lambda one: one[len(one) // 8 + 37 : len(one) * 7 // 8],
}


@pytest.mark.parametrize("change", COPIES)
def test_a_changed_copy_is_found_where_it_begins(change, waveforms, index):
    missed, misplaced = [], []
    for number, waveform in enumerate(waveforms):
        copy = COPIES[change](waveform).astype(np.float32)
        found = {match.clip: match for match in index.search(fp.fingerprint(copy))}
        match = found.get(number)
        if match is None or fp.evidence(match.signature, fp.correlate(copy, waveform, match.offset)) < fp.LEAK_EVIDENCE:
            missed.append(number)
        elif abs(match.offset - (len(waveform) // 8 + 37) / fp.RATE * (change == "trimmed")) > 0.04:
            misplaced.append(number)
    assert len(missed) <= 1, f"{len(missed)} of {len(waveforms)} are not found"
    assert len(misplaced) <= 1


def test_a_sound_with_more_copies_than_a_hash_may_have_is_found_and_its_copies_are_linked(waveforms, tmp_path):
    shortest = min(waveforms, key=len)
    copies = [(shortest * (0.3 + 0.005 * number)).astype(np.float32) for number in range(fp._MOST_POSTINGS + 6)]
    prints = [fp.fingerprint(one) for one in copies]
    index = fp.build_index(((str(number), one) for number, one in enumerate(prints)), tmp_path)
    assert len(index.search(fp.fingerprint(shortest))) > 40
    linked = {0}
    for number, one in enumerate(prints):  # as merging does
        if number in linked:
            linked |= {match.clip for match in index.search(one, after=number)}
    assert linked == set(range(len(copies)))


def test_different_clips_are_no_copies_of_each_other(clips, waveforms, index):
    sure = {
        (clips[number]["label"], clips[match.clip]["label"]): fp.evidence(
            match.signature, fp.correlate(waveform, waveforms[match.clip], match.offset)
        )
        for number, waveform in enumerate(waveforms)
        for match in index.search(fp.fingerprint(waveform), without=number)
    }
    assert max(sure.values()) < fp.MERGE_EVIDENCE
    # Two hits of one drum are as near as different recordings come: they may count as a leak, and are not merged.
    assert {pair for pair, one in sure.items() if one >= fp.LEAK_EVIDENCE} <= {("snare drum", "snare drum")}


def test_two_notes_of_one_instrument_are_two_recordings():
    time = np.arange(fp.RATE) / fp.RATE

    def note(hertz: float) -> np.ndarray:
        partials = [np.sin(2 * math.pi * hertz * k * time) / k for k in (1, 2, 3, 4)]
        return (0.2 * sum(partials) * np.exp(-3 * time)).astype(np.float32)

    one, other = note(220), note(220 * 2 ** (1 / 12))
    score, shift, _ = fp.compare(fp.fingerprint(one).frames, fp.fingerprint(other).frames, 0)
    assert fp.evidence(score, fp.correlate(one, other, shift * fp.HOP / fp.RATE)) < fp.LEAK_EVIDENCE
    assert fp.correlate(one, -0.1 * one, 0.0) == pytest.approx(1.0, abs=1e-3)


def test_a_correlation_worked_by_hand_is_the_cosine_of_two_mixtures():
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 10 * fp.RATE)).astype(np.float32)
    assert fp.correlate(one, 0.6 * one + 0.8 * other, 0.0) == pytest.approx(0.6, abs=0.02)
    assert fp.correlate(one, other, 0.0) < 0.05


def test_equal_samples_have_equal_digests_whatever_file_they_lie_in(waveforms, tmp_path):
    samples = np.round(waveforms[3] * 32768) / np.float32(32768)  # those of a 16-bit file
    index = fp.build_index([("other", fp.fingerprint(waveforms[1])), ("one", fp.fingerprint(samples))], tmp_path)
    for format, subtype in (("FLAC", "PCM_24"), ("WAV", "FLOAT"), ("AIFF", "PCM_16")):
        assert index.exact(fp.fingerprint(_encoded(samples, fp.RATE, format=format, subtype=subtype))) == [1]
    samples[7] += 0.001
    assert index.exact(fp.fingerprint(samples)) == []


def test_a_long_clip_is_cut_into_blocks_without_a_trace(waveforms, monkeypatch):
    long = np.concatenate(waveforms)
    whole = fp.fingerprint(long).frames
    monkeypatch.setattr(fp, "_BLOCK", 101)
    assert np.array_equal(whole, fp.fingerprint(long).frames)


def test_silence_and_clips_of_a_few_samples_are_handled(tmp_path):
    silence, blip = np.zeros(fp.RATE, np.float32), np.ones(3, np.float32)
    index = fp.build_index([("silence", fp.fingerprint(silence)), ("blip", fp.fingerprint(blip))], tmp_path)
    assert index.search(fp.fingerprint(silence)) == [] and index.search(fp.fingerprint(blip)) == []
    assert not fp.is_audible(fp.fingerprint(silence).frames) and fp.is_audible(fp.fingerprint(blip).frames)
    assert len(fp.build_index([], tmp_path)) == 0


def test_what_is_no_waveform_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"shape \(2, 5\); expected \(n,\) samples at 16000 Hz"):
        fp.fingerprint(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="must be one line"):
        fp.build_index([("two\nlines", fp.fingerprint(np.ones(400, np.float32)))], tmp_path)
    with pytest.raises(FileNotFoundError, match="no finished index"):
        fp.FingerprintIndex(tmp_path)
