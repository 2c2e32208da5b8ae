"""Every row of the papers' tables that has a configuration, and every switch of the objectives, learns something."""

import json

import pytest
import yaml
from accelerate.state import AcceleratorState
from test_pretrain import PARTS, ROOT, SMALL, load_script, losses

from hf_slap import SlapConfig, SlapForAudioClassification

FOLDER = ROOT / "examples" / "configs" / "ablations"
ROWS = {
    "slap_no_ssl": {"contrastive", "caption"},
    "slap_no_caption": {"contrastive", "masked"},
    "slap_contrastive_only": {"contrastive"},
    "slap_all_global": set(PARTS),
    "captionstew_contrastive": {"contrastive"},
    "captionstew_captioning": {"caption"},
    "captionstew_captioning_mixed": {"caption"},
    "captionstew_contrastive_supervised": {"contrastive"},
    "captionstew_captioning_supervised": {"caption"},
    "captionstew_captioning_mixed_supervised": {"caption"},
}
FAST = ["train_split=train[:24]", "validation_data=null", "batch_seconds=8", "workers=0", "log_every=1", "tracker=none"]
SWITCHES = [
    ["shared_masked_pass=true"],
    ["mask_kind=block", "centering=softmax"],
    ["model.num_prototypes=300", "parallel_caption_share=0.75"],
    ["model.contrastive_kind=sigmoid", "parallel_caption_share=1"],
]


def run(*arguments):
    AcceleratorState._reset_state(reset_partial_state=True)
    load_script().main([*arguments])


def test_every_file_is_in_the_table_here():
    assert {path.stem for path in FOLDER.iterdir()} == ROWS.keys()


@pytest.fixture(scope="module")
def supervised(tmp_path_factory):
    """An audio tower as `pretrain_supervised.py` leaves it, with the sizes of tiny.yaml."""
    folder = tmp_path_factory.mktemp("supervised")
    audio = yaml.safe_load((ROOT / "examples" / "configs" / "tiny.yaml").read_text())["model"]["audio_config"]
    SlapForAudioClassification(SlapConfig(audio_config=audio, num_labels=3)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_a_table_is_one_small_file(name, tmp_path, monkeypatch, supervised):
    monkeypatch.chdir(ROOT)  # the files name the corpus as seen from there
    start = [f"audio_from={supervised}"] if name.endswith("supervised") else []
    run("--config", str(FOLDER / f"{name}.yaml"), *FAST, f"run_folder={tmp_path}", "stop_step=2", *start)
    rows = losses(tmp_path)
    assert len(rows) == 2 and {part for part in PARTS if part in rows[0]} == ROWS[name]
    told = json.loads((tmp_path / "start.json").read_text())
    assert ("global" in name) == ("sliding_attention" not in told["config"]["audio_config"]["layer_types"])
    assert ("mixed" in name) == told["config"]["decoder_config"]["parallel"]
    assert ("supervised" in name) == any(part["source"] == str(supervised) for part in told["parts"])


@pytest.mark.parametrize("switches", SWITCHES, ids=" ".join)
def test_every_switch_of_the_objectives_learns(switches, tmp_path):
    run(
        *SMALL, f"run_folder={tmp_path}", "train_split=train[:8]", "validation_data=null", "batch_seconds=100",
        "total_steps=7", "stop_step=6", "peak_learning_rate=4e-3", "checkpoint_every=7", "clips.cache_mb=50",
        "clips.time_masks=0", "clips.freq_masks=0", *switches,
    )  # fmt: skip
    first, *_, last = losses(tmp_path)
    for part in PARTS:
        assert last[part] < first[part], part
