"""The README's Python runs as it stands, from an empty folder with two sound files and a model."""

import re
from pathlib import Path

import pytest
import soundfile

README = Path(__file__).parents[1] / "README.md"


def test_every_python_block_runs(tiny_folder, tiny_processor, real_clips, tmp_path, monkeypatch):
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    (tmp_path / "runs" / "tiny" / "model").symlink_to(tiny_folder)
    (tmp_path / "folder" / "of" / "sounds").mkdir(parents=True)
    for name, clip in zip(("clip.wav", "other.flac"), real_clips, strict=False):
        for folder in (tmp_path, tmp_path / "folder" / "of" / "sounds"):
            soundfile.write(folder / name, tiny_processor.feature_extractor.load(clip), 16_000)
    monkeypatch.chdir(tmp_path)

    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert len(blocks) >= 2
    assert names["outputs"].logits_per_audio.shape == (2, 2)
    assert names["clip"].pooler_output.norm(dim=-1).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert len(names["result"].dataset) == 2 and names["result"].failed == []
