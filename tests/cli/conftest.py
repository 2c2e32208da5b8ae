"""Sounds in a folder, one of them broken, and a `slap` that runs in this process."""

import io
import json

import pytest
import soundfile

from hf_slap.cli import main


@pytest.fixture
def sounds(real_clips, tiny_processor, tmp_path, monkeypatch):
    """two.flac, one.wav and broken.ogg, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, clip in zip(("one.wav", "two.flac"), real_clips, strict=False):
        soundfile.write(tmp_path / name, tiny_processor.feature_extractor.load(clip), 16_000)
    (tmp_path / "broken.ogg").write_bytes(real_clips[0]["bytes"][:200])
    return tmp_path


@pytest.fixture
def slap(capsys, monkeypatch):
    """slap(*arguments, stdin="") -> (exit status, stdout, stderr); JSON is read."""

    def run(*arguments: str, stdin: str = ""):
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        status = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return status, json.loads(said.out) if "json" in arguments else said.out, said.err

    return run
