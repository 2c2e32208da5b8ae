"""What was computed survives a crash, and a half-written array does not."""

import numpy as np

from hf_slap.evaluation.cache import ArrayCache


def test_arrays_come_back_from_another_object(tmp_path):
    cache = ArrayCache(tmp_path / "x" / "frames")
    one, two = np.arange(6, dtype=np.float16).reshape(2, 3), np.zeros((0,), np.uint8)
    cache.put("one", one)
    cache.put("two", two)
    cache.put("one", one + 1)  # is there already
    again = ArrayCache(tmp_path / "x" / "frames")
    assert again["one"].tolist() == one.tolist() and again["one"].dtype == np.float16
    assert again["two"].shape == (0,) and "three" not in again


def test_a_crash_in_the_middle_loses_only_what_was_being_written(tmp_path):
    cache = ArrayCache(tmp_path / "frames")
    for key in "abc":
        cache.put(key, np.full(5, ord(key), np.float32))
    data, lines = tmp_path / "frames.bin", tmp_path / "frames.jsonl"
    lines.write_text(lines.read_text()[:-9])  # the last line was cut off
    data.write_bytes(data.read_bytes() + b"half an arr")  # and an array after it
    again = ArrayCache(tmp_path / "frames")
    assert "c" not in again and again["b"][0] == ord("b")
    again.put("c", np.full(5, 7, np.float32))
    third = ArrayCache(tmp_path / "frames")
    assert third["c"].tolist() == [7] * 5 and third["a"][0] == ord("a")

    data.write_bytes(data.read_bytes()[:-4])  # the file system kept the index and lost the end of the data
    assert "c" not in ArrayCache(tmp_path / "frames")
