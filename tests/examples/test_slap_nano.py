"""What slap-nano is made with: the corpus keeps what may be given away, and a mean of models is one."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from examples.slap_nano import pack, prepare
from hf_slap import bundled, bundled_sounds
from hf_slap.data import load_corpus
from hf_slap.modeling import SlapForPreTraining

DOG = next(path for path in map(Path, bundled_sounds()) if path.stem == "dog")


def clip(number: int, domain: str, label: str, redistributable: bool = True) -> dict:
    sound = {"bytes": DOG.read_bytes(), "path": None}
    return {"audio": sound, "id": f"clip {number}", "domain": domain, "label": label, "package": "a-package",
            "license": "CC0-1.0", "redistributable": redistributable, "duration": 1.0}  # fmt: skip


def test_the_corpus_is_what_may_be_given_away(tmp_path):
    rows = [clip(0, "drum", "kick drum"), clip(1, "animal", "dog"), clip(2, "speech", "letter"),
            clip(3, "instrument", "banjo"), clip(4, "animal", "cow", redistributable=False)]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "clips.parquet")
    phrases = {"kick drum": ["a bass drum"], "dog": ["a dog barks"], "speech": ["someone talks"], "banjo": []}
    prepare.write_corpus([tmp_path / "clips.parquet"], tmp_path / "made", phrases)
    corpus = load_corpus(tmp_path / "made" / "train.parquet")
    assert corpus["id"] == [f"clip {number}" for number in range(4)]
    assert corpus["source"] == ["drums", "effects", "speech", "instruments"]
    assert corpus["captions"][:2] == [["kick drum", "a bass drum"], ["dog", "a dog barks"]]
    assert "| a-package | CC0-1.0 | 4 |" in (tmp_path / "made" / "CREDITS.md").read_text()

    with pytest.raises(SystemExit, match="clip clip 3 has the label 'banjo', for which phrases.yaml has no phrases"):
        phrases.pop("banjo")
        prepare.write_corpus([tmp_path / "clips.parquet"], tmp_path / "made", phrases)


def test_a_mean_of_models_is_a_model(tmp_path):
    shipped = Path(bundled("slap-nano"))
    other = SlapForPreTraining.from_pretrained(shipped)
    with torch.no_grad():
        other.slap.text_projection.weight.mul_(2)
    other.save_pretrained(tmp_path / "other")
    models = [str(shipped), str(tmp_path / "other")]
    pack.main([str(tmp_path / "mean"), *models, "--shares", "0.75", "0.25", "--scale", "10"])
    before, mean = load_file(shipped / "model.safetensors"), load_file(tmp_path / "mean" / "model.safetensors")
    projection = "slap.text_projection.weight"
    torch.testing.assert_close(mean[projection], before[projection] * 1.25)
    assert mean["slap.logit_scale"].exp().item() == pytest.approx(10, rel=1e-3)
    assert set(mean) == set(before) and all(weight.dtype == torch.float16 for weight in mean.values())
    assert all(torch.equal(mean[name], before[name]) for name in before if name not in (projection, "slap.logit_scale"))
    SlapForPreTraining.from_pretrained(tmp_path / "mean")
    with pytest.raises(SystemExit):
        pack.main([str(tmp_path / "mean"), *models, "--shares", "1"])
