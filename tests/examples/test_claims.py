"""The command behind the claims at its smallest, and its tables against numbers worked by hand."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Audio

from hf_slap import SlapAudioConfig
from hf_slap.data import load_corpus, train_tokenizer
from hf_slap.files import read_json_lines

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))
import claims  # noqa: E402
from claims_report import claim_difference, packed, study_report, unpacked  # noqa: E402
from claims_studies import FOLDER, Study  # noqa: E402
from pretrain import build_model  # noqa: E402
from pretrain_clap import ClapTrainConfig, build_clap, clap_input  # noqa: E402

STUDIES = [path for path in sorted(FOLDER.glob("*.yaml")) if path.stem != "common"]
SMALL = {  # a model of two layers, 16 wide
    "base": str(ROOT / "examples" / "configs" / "tiny.yaml"),
    "masked_weight": 0,
    "model": {
        "audio_config": {
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "max_audio_seconds": 2.0,
        },
        "text_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
        "decoder_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
        "projection_dim": 16,
    },
}  # fmt: skip
SMALL_CLAP = {
    "base": "small.yaml",
    "caption_weight": 0,
    "clap": {
        "projection_dim": 16,
        "audio_config": {
            "patch_embeds_hidden_size": 4,
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 1, 1],
            "hidden_size": 32,
        },
        "text_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    },
}


# --------------------------------------------------------------------------------------------- the whole command
@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Three rows of one study, one seed, two steps, on a dozen clips; the third row starts from labels."""
    folder = tmp_path_factory.mktemp("claims")
    for side, count in (("train", 12), ("heldout", 5)):
        corpus = load_corpus(str(ROOT / "examples" / "data" / f"{side}.parquet"))
        labels = ["dog", "explosion"]
        rows = [row for row, label in enumerate(corpus["label"]) if label in labels]
        rows = [row for row in rows if 0.3 < corpus[row]["duration"] < 2.0][:count]
        corpus.select(rows).cast_column("audio", Audio(decode=False)).to_parquet(folder / f"{side}.parquet")
    supervised = {"base": "small.yaml", "audio_from": "the tower of the seed"}
    for name, values in (("small", SMALL), ("clap", SMALL_CLAP), ("supervised", supervised)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    arguments = [
        "--only", "slap_against_clap", f"rows={{SLAP: {folder}/small.yaml, CLAP: {folder}/clap.yaml, labels: {folder}/supervised.yaml}}",
        "seeds=[5]", "claims=[{says: SLAP is ahead, more: SLAP, than: CLAP}]", "measures=[zero-shot, linear probe]",
        f"train_data={folder}/train.parquet", f"held_out_data={folder}/heldout.parquet", f"run_folder={folder}/run",
        "pretraining={total_steps: 2, warmup_steps: 1, batch_seconds: 6}",
    ]  # fmt: skip
    claims.main(arguments)
    return arguments, folder / "run"


def test_every_row_is_trained_and_judged(ran):
    results = {result["row"]: result for result in read_json_lines(ran[1] / "results.jsonl")}
    assert set(results) == {"small", "clap", "supervised"}
    told = json.loads((ran[1] / "setting.json").read_text())
    for result in results.values():
        hits = unpacked(result["per_clip"]["zero-shot"])
        assert len(hits) == told["held-out clips"] and hits.mean() == pytest.approx(result["values"]["zero-shot"])
    assert "caption word F1" in results["small"]["values"] and "caption word F1" not in results["clap"]["values"]
    assert told["chance"]["zero-shot"] == 0.5 and told["training"]["classes"] == 2
    start = json.loads((ran[1] / "runs" / "supervised-1-seed-5" / "start.json").read_text())
    assert any("towers/seed-5" in part["source"] for part in start["parts"]), "the third row starts from labels"


def test_the_table_is_computed_from_the_results(ran):
    results = {result["row"]: result["values"] for result in read_json_lines(ran[1] / "results.jsonl")}
    lines = (ran[1] / "claims.md").read_text().splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    for row, stem in (("SLAP", "small"), ("CLAP", "clap")):
        (cells,) = [cells[1:3] for cells in table if cells[0] == row]
        assert cells == [f"{100 * results[stem][name]:.1f}" for name in ("zero-shot", "linear probe")]
    ahead = [cells for cells in table if cells[0] == "SLAP is ahead"]
    gap = 100 * (results["small"]["linear probe"] - results["clap"]["linear probe"])
    assert ahead[1][1:3] == ["linear probe", f"{gap:+.1f}"] and ahead[1][-1] == "not told apart"
    assert (ran[1] / "slap_against_clap.png").stat().st_size > 1000


def test_what_is_done_is_not_repeated(ran, monkeypatch):
    arguments, folder = ran
    before = (folder / "results.jsonl").read_bytes()
    monkeypatch.setattr(claims, "train_and_judge", None)
    claims.main(arguments)
    claims.main(["--report", *arguments])
    assert (folder / "results.jsonl").read_bytes() == before


def test_results_of_other_clips_are_not_mixed_in(ran):
    arguments, folder = ran
    with pytest.raises(ValueError, match="holds results of other clips"):
        claims.main([*arguments, f"train_data={folder}/clips/elsewhere.parquet"])


# ------------------------------------------------------------------------------------------------- the numbers
@pytest.fixture
def study():
    rows = {"a": "../tiny.yaml", "b": "../ablations/slap_no_ssl.yaml"}
    claim = {"says": "a gains more from data", "more": ["a", "b@0.5"], "than": ["a@0.5", "b"]}
    return Study(title="t", rows=rows, measures=["zero-shot"], claims=[claim], fractions=[0.5, 1.0], seeds=[0, 1])


def result(study, row, fraction, seed, hits):
    hits = torch.tensor(hits).bool().numpy()
    values, per_clip = {"zero-shot": float(hits.mean())}, {"zero-shot": packed(hits)}
    key = study.run(row, fraction, seed).key(study)
    return {"run": key, "seed": seed, "values": values, "per_clip": per_clip, "cpu_seconds": 7.0}


def test_a_difference_of_differences_is_paired_by_seed_and_by_clip(study):
    """Seed 0: (3 - 1) - (2 - 2) of 4 clips = 0.5. Seed 1: (2 - 1) - (1 - 2) = 0.5. So 0.5, the same for both seeds."""
    results = [
        result(study, "a", 1.0, 0, [1, 1, 1, 0]), result(study, "a", 0.5, 0, [1, 0, 0, 0]),
        result(study, "b", 1.0, 0, [1, 1, 0, 0]), result(study, "b", 0.5, 0, [1, 1, 0, 0]),
        result(study, "a", 1.0, 1, [1, 1, 0, 0]), result(study, "a", 0.5, 1, [1, 0, 0, 0]),
        result(study, "b", 1.0, 1, [1, 0, 0, 0]), result(study, "b", 0.5, 1, [1, 1, 0, 0]),
    ]  # fmt: skip
    found = claim_difference(study, results, study.claims[0], "zero-shot")
    assert found.mean == 0.5 and found.over_seeds == (0.5, 0.5)
    # The clips' differences are 0, 1.5, 0.5 and 0. Of 256 draws of four 5 have a mean above 1.125, 13 one of 1.125 or more.
    assert found.over_clips == (0.0, 1.125)
    assert found.verdict == "not told apart"
    assert claim_difference(study, results[:3], study.claims[0], "zero-shot") is None, "a term has no result yet"
    report = study_report(study, results)
    assert "| a | 1 | 62.5 +- 158.8 | 2 | 7 |" in report, "0.75 and 0.5: 12.706 x 0.125"
    assert "| a gains more from data | zero-shot | +50.0 | +50.0 to +50.0 | +0.0 to +112.5 | not told apart |" in report


def test_a_claim_may_compare_measures(study):
    claim = {"says": "", "more": ["a:linear probe", "b@0.5:attention probe"], "than": "b:linear probe"}
    assert study.tested_by(claim) == ["linear probe and attention probe"]
    (sign, term), *_, (last, other) = study.terms(claim, "zero-shot")
    assert (sign, *term) == (1, "a", 1.0, "linear probe") and (last, *other) == (-1, "b", 1.0, "linear probe")


def test_rows_that_say_the_same_are_one_run_and_seeds_are_not(study):
    one, other = ({"x": f"../ablations/{name}.yaml"} for name in ("slap_contrastive_only", "captionstew_contrastive"))
    keys = {Study(rows=rows).run("x", 1.0, 0).key(study) for rows in (one, other)}
    assert len(keys) == 1
    assert len({Study(rows=one).run("x", fraction, seed).key(study) for fraction in (0.5, 1.0) for seed in (0, 1)}) == 4


# ------------------------------------------------------------------------------------------------- what is shipped
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_names_rows_that_exist(path):
    study = Study.load(path)
    assert study.claims and all((study.folder / row).exists() for row in study.rows.values()) and len(study.seeds) >= 3


def test_a_claim_about_a_row_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "s.yaml").write_text("{rows: {a: x.yaml}, claims: [{says: more, more: a, than: b}]}")
    with pytest.raises(ValueError, match="the claim 'more' is about 'b' at 1; there are .'a'."):
        Study.load(tmp_path / "s.yaml")


def test_the_clap_model_is_as_large_as_slap():
    """Each side within 3 %, with a tokenizer of the captions that are shipped."""
    config = ClapTrainConfig.load(ROOT / "examples" / "configs" / "tiny_clap.yaml")
    captions = load_corpus(str(ROOT / "examples" / "data" / "train.parquet"))["captions"]
    tokenizer = train_tokenizer([text for clip in captions for text in clip], max_length=config.max_caption_tokens)
    clap = build_clap(config, tokenizer, SlapAudioConfig(**config.model["audio_config"]))
    slap = build_model(config, tokenizer)[0].slap

    def sizes(model):
        return [
            sum(p.numel() for name, p in model.named_parameters() if name.startswith(side))
            for side in ("audio", "text")
        ]

    assert sizes(clap) == pytest.approx(sizes(slap), rel=0.03)


def test_clap_hears_a_clip_repeated_and_a_long_one_cut():
    packed_clips = torch.arange(7.0)[:, None].numpy()  # clips of 2 and 5 frames
    assert clap_input(packed_clips, [2, 5], 3)[:, 0, :, 0].tolist() == [[0, 1, 0], [2, 3, 4]]


def test_clap_learns_from_the_contrastive_loss_alone():
    with pytest.raises(ValueError, match="set masked_weight and caption_weight to 0"):
        ClapTrainConfig(train_data="x", masked_weight=0)
