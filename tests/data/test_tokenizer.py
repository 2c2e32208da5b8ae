import pytest
from transformers import AutoTokenizer

from hf_slap.data import train_tokenizer

CAPTIONS = ["a dog barking", "the sound of a dog", "water flowing in a stream", "a dog barks and barks"]


def test_the_same_captions_give_the_same_tokenizer():
    first, again = (train_tokenizer(CAPTIONS, 277, 17).backend_tokenizer.to_str() for _ in range(2))
    assert first == again


def test_a_text_stands_between_cls_and_sep_and_comes_back_in_lower_case():
    tokenizer = train_tokenizer(CAPTIONS, 300, 17)
    ids = tokenizer("A Dog BARKING")["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a dog barking"
    assert len(ids) == 5


def test_any_text_can_be_written_without_an_unknown_token():
    tokenizer = train_tokenizer(CAPTIONS, 277, 170)
    assert tokenizer.unk_token is None
    for text in ("ein hündchen bellt", "собака лает", "犬 🐕", ""):
        ids = tokenizer(text)["input_ids"]
        assert None not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_special_tokens_lengths_and_names_are_set():
    tokenizer = train_tokenizer(CAPTIONS, 277, 7)
    assert [tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id] == [
        0,
        1,
        2,
        3,
    ]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    texts = tokenizer(["dog", "a dog barking at water flowing in a stream"], padding=True, truncation=True)
    assert set(texts) == {"input_ids", "attention_mask"}
    assert [len(ids) for ids in texts["input_ids"]] == [7, 7]
    assert texts["input_ids"][1][-1] == tokenizer.sep_token_id
    assert sum(texts["attention_mask"][0]) < 7
    assert len(tokenizer) <= 277


def test_it_survives_saving(tmp_path):
    tokenizer = train_tokenizer(CAPTIONS, 277, 17)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("A dog, barking!") == tokenizer("A dog, barking!")
    assert again.decode(again("a dog")["input_ids"], skip_special_tokens=True) == "a dog"
    assert (again.model_max_length, again.eos_token_id, again.pad_token_id) == (17, 2, 0)


@pytest.mark.parametrize(
    ("captions", "vocab_size", "max_length", "message"),
    [
        ([], 300, 17, "no captions"),
        (["", " "], 300, 17, "no captions"),
        (CAPTIONS, 259, 17, "vocab_size is 259.* at least 260"),
        (CAPTIONS, 300, 2, "max_length is 2"),
    ],
)
def test_what_cannot_be_trained_is_refused(captions, vocab_size, max_length, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(captions, vocab_size, max_length)
