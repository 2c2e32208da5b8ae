"""What several folders of tests share: a tiny SLAP, saved once, and real clips. Nothing leaves this machine."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is first imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

import hf_slap  # noqa: E402

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)  # the sums of the models here are too small to share, and one thread always rounds alike


@pytest.fixture(scope="session")
def corpus_rows() -> list[dict]:
    """Seven held-out clips of the example corpus, 0.3 to 2 s, with their captions and labels."""
    from pyarrow import parquet

    columns = ["id", "audio", "captions", "label", "duration"]
    rows = parquet.read_table(ROOT / "examples" / "data" / "heldout.parquet", columns=columns).to_pylist()
    return sorted((row for row in rows if 0.3 < row["duration"] < 2.0), key=lambda row: row["id"])[:7]


@pytest.fixture(scope="session")
def real_clips(corpus_rows) -> list[dict]:
    """The sound of `corpus_rows`, as {"bytes", "path"}: Ogg/Opus, 16 kHz, mono."""
    return [row["audio"] for row in corpus_rows]


@pytest.fixture(scope="session")
def tiny_processor(corpus_rows) -> hf_slap.SlapProcessor:
    """The real feature extractor, and a tokenizer of 293 tokens trained on the captions of `corpus_rows`."""
    from hf_slap.data import train_tokenizer

    captions = [caption for row in corpus_rows for caption in row["captions"]]
    tokenizer = train_tokenizer(captions, vocab_size=293, max_length=23)
    return hf_slap.SlapProcessor(hf_slap.SlapFeatureExtractor(), tokenizer)


@pytest.fixture(scope="session")
def tiny_config(tiny_processor) -> hf_slap.SlapConfig:
    """Unequal sizes on every axis, so that no two can be confused. Do not change it: it is shared."""
    tokenizer = tiny_processor.tokenizer
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    heads = {"num_attention_heads": 2, "vocab_size": len(tokenizer)}
    return hf_slap.SlapConfig(
        audio_config={
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "intermediate_size": 37,
            "local_window": 4,
        },
        text_config={
            **{"hidden_size": 20, "num_hidden_layers": 2, "intermediate_size": 31, "max_position_embeddings": 23},
            **{**heads, **special, "cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id},
        },
        decoder_config={
            **{"hidden_size": 28, "num_hidden_layers": 2, "intermediate_size": 41, "max_position_embeddings": 19},
            **heads,
        },
        projection_dim=11,
        num_prototypes=13,
        prototype_hidden_size=17,
        prototype_bottleneck_size=7,
        **special,
    )


@pytest.fixture(scope="session")
def tiny_folder(tiny_config, tiny_processor, tmp_path_factory) -> Path:
    """An untrained tiny SLAP with all its parts, as `save_folder` publishes it. Do not write into it: it is shared."""
    folder = tmp_path_factory.mktemp("slap-tiny")
    torch.manual_seed(0)
    hf_slap.save_folder(folder, hf_slap.SlapForPreTraining(tiny_config), tiny_processor)
    return folder
