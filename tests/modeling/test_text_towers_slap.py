"""Which token speaks for a text: GPT-2's last one, BERT's and RoBERTa's first one, and what CLAP's code counts."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_slap import SlapConfig, SlapModel
from hf_slap.data import end_texts

END = "<|endoftext|>"


@pytest.fixture
def gpt2_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE like GPT-2's: "!" has the id 0, nothing is put around a text, and there is no padding token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=281, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["a dog barks loudly!", "rain on a tin roof", "a dog in the rain"], trainer)
    tokenizer.add_special_tokens([END])
    assert tokenizer.token_to_id("!") == 0
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END, model_max_length=17)


def small_model(kind: str, pooling: str, vocabulary: int) -> SlapModel:
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 17}
    if kind == "gpt2":
        sizes = {"n_embd": 12, "n_layer": 2, "n_head": 2, "n_positions": 19}
    torch.manual_seed(0)
    tower = {"num_mel_bins": 16, "block_sizes": [4], "hidden_size": 4}
    config = SlapConfig(
        audio_config={"model_type": "slap_cnn14", **tower}, decoder_config=None, projection_dim=7,
        text_config={"model_type": kind, "vocab_size": vocabulary, "initializer_range": 0.3, **sizes},
        text_pooling=pooling, projection="residual_mlp",
    )  # fmt: skip
    return SlapModel(config).eval()


def embed(model, tokenizer, texts, **options):
    inputs = tokenizer(texts, return_tensors="pt", return_token_type_ids=False, **{"padding": True, **options})
    with torch.no_grad():
        return model.get_text_features(**inputs).pooler_output


def test_the_end_token_follows_every_text_and_survives_truncation_and_saving(gpt2_tokenizer, tmp_path):
    tokenizer = end_texts(gpt2_tokenizer, ["Ġ", END])
    ids = tokenizer("a dog")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids[-2:]) == ["Ġ", END]
    assert ids == tokenizer(f"a dog {END}", add_special_tokens=False)["input_ids"]  # what CLAP's code feeds
    cut = tokenizer("a dog " * 30, truncation=True)["input_ids"]
    assert len(cut) == 17 and cut[-2:] == ids[-2:]
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("a dog")["input_ids"] == ids
    assert end_texts(tokenizer, ["Ġ", END]) is tokenizer and tokenizer("a dog")["input_ids"] == ids


def test_an_end_that_the_tokenizer_does_not_know_is_refused(gpt2_tokenizer):
    with pytest.raises(ValueError, match="cannot end texts with"):
        end_texts(gpt2_tokenizer, ["[END]"])
    around = end_texts(gpt2_tokenizer)
    with pytest.raises(ValueError, match="puts .* around a text"):
        end_texts(around, ["Ġ"])


@pytest.mark.parametrize("text", ["a dog!", "!", "rain! a dog! on a roof"])
def test_padding_and_exclamation_marks_change_no_embedding(gpt2_tokenizer, text):
    tokenizer = end_texts(gpt2_tokenizer)
    model = small_model("gpt2", "last", len(tokenizer))
    alone = embed(model, tokenizer, [text])
    among = embed(model, tokenizer, ["a dog barks loudly in the rain", text, "a"])[1]
    assert torch.allclose(alone[0], among, atol=1e-6)


def test_the_last_token_has_seen_the_whole_text(gpt2_tokenizer):
    tokenizer = end_texts(gpt2_tokenizer)
    model = small_model("gpt2", "last", len(tokenizer))
    first, second = embed(model, tokenizer, ["a dog in the rain", "a cat in the rain"])
    assert (first - second).abs().max() > 1e-3


def test_counting_ids_is_right_without_an_exclamation_mark_and_wrong_with_one(gpt2_tokenizer):
    tokenizer = end_texts(gpt2_tokenizer)
    tokenizer.pad_token = "!"  # as CLAP's code does
    safe, counting = (small_model("gpt2", pooling, len(tokenizer)) for pooling in ("last", "nonzero"))
    options = {"padding": "max_length"}
    plain, shifted = ["rain on a roof"], ["rain! a roof"]
    assert torch.equal(embed(safe, tokenizer, plain, **options), embed(counting, tokenizer, plain, **options))
    ids = tokenizer(shifted)["input_ids"][0]
    assert 0 in ids
    inputs = torch.tensor([ids[:-1]])  # one "!" in the text: the token before the end is taken
    with torch.no_grad():
        before_the_end = safe.get_text_features(inputs).pooler_output
    assert torch.allclose(embed(counting, tokenizer, shifted, **options), before_the_end, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_first_token_speaks_for_the_text_of_an_encoder(kind):
    model = small_model(kind, "cls", 31)
    assert model.text_model.pooler is None
    ids = torch.tensor([[3, 7, 9, 2], [3, 5, 2, 1]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    with torch.no_grad():
        both, alone = model.get_text_features(ids, mask), model.get_text_features(ids[1:, :3])
        hidden = model.text_model(ids, mask).last_hidden_state
        by_hand = torch.nn.functional.normalize(model.text_projection(hidden[:, 0]), dim=-1)
    assert torch.allclose(both.pooler_output, by_hand, atol=1e-6)
    assert torch.allclose(both.pooler_output[1], alone.pooler_output[0], atol=1e-5)
