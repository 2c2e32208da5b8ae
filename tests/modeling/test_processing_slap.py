import warnings

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoFeatureExtractor, AutoProcessor, PreTrainedTokenizerFast

from hf_slap.modeling.audio_slap import AudioError
from hf_slap.modeling.configuration_slap import SlapConfig
from hf_slap.modeling.feature_extraction_slap import SlapFeatureExtractor
from hf_slap.modeling.processing_slap import SlapProcessor

CAPTIONS = ["a dog barking", "water flowing in a stream", "the sound of a snare drum", "someone plays a guitar"]
RATE = 16_000


def make_tokenizer(limit: int = 11, texts: list[str] = CAPTIONS) -> PreTrainedTokenizerFast:
    """A BPE of letters and words of the captions, with [CLS] and [SEP] around each text."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=200, special_tokens=special))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=limit, **names)


@pytest.fixture(scope="module")
def processor() -> SlapProcessor:
    return SlapProcessor(SlapFeatureExtractor(), make_tokenizer())


def test_text_and_sound_give_what_their_parts_give(processor, clips):
    inputs = processor(text=CAPTIONS[:3], audio=clips[:2], return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask", "input_features", "input_features_mask"}
    sound = processor.feature_extractor(clips[:2], return_tensors="pt")
    words = processor.tokenizer(CAPTIONS[:3], padding=True, return_tensors="pt")
    for expected in (sound, words):
        for name in set(expected) & set(inputs):
            assert torch.equal(inputs[name], expected[name]), name
    assert set(processor(text=CAPTIONS[0], return_tensors="pt")) == {"input_ids", "attention_mask"}
    assert processor(text=CAPTIONS[0], return_tensors="pt")["input_ids"].ndim == 2
    assert set(processor(audio=clips[0], return_tensors="np")) == {"input_features", "input_features_mask"}
    assert set(inputs) <= set(processor.model_input_names)


def test_tensors_move_and_only_the_features_change_type(processor, clips):
    inputs = processor(text=CAPTIONS[:1], audio=clips[:1], return_tensors="pt").to("cpu", torch.bfloat16)
    assert inputs["input_features"].dtype == torch.bfloat16
    assert inputs["input_ids"].dtype == inputs["input_features_mask"].dtype == torch.int64


def test_the_rate_of_arrays_reaches_the_feature_extractor(processor):
    wave = np.random.default_rng(0).normal(scale=0.1, size=48_000)
    with pytest.raises(AudioError, match=r"audio\[0\]: expected 16000 Hz, got 48000 Hz"):
        processor(audio=wave, sampling_rate=48_000)
    with pytest.raises(AudioError, match="got None"):
        processor(audio=wave)
    assert processor(audio=wave, sampling_rate=48_000, resample=True)["input_features"].shape == (1, 101, 64)


def test_options_for_one_side_are_taken_as_sentence_transformers_gives_them(processor):
    wave = np.random.default_rng(0).normal(scale=0.1, size=4000)
    options = {
        "text_kwargs": {"padding": True, "truncation": "longest_first"},
        "audio_kwargs": {"padding": True, "sampling_rate": RATE},
        "images_kwargs": {},
        "videos_kwargs": {},
        "common_kwargs": {"return_tensors": "pt"},
    }
    assert processor(audio=[wave, wave], **options)["input_features"].shape == (2, 26, 64)
    assert torch.equal(
        processor(text=CAPTIONS, **options)["input_ids"], processor(text=CAPTIONS, return_tensors="pt")["input_ids"]
    )
    with pytest.raises(ValueError, match="images_kwargs"):
        processor(text=CAPTIONS, images_kwargs={"size": 3})
    with pytest.raises(TypeError, match="samplingrate"):
        processor(audio=wave, samplingrate=RATE)


def test_a_text_over_the_limit_is_cut_with_a_warning_that_says_which_and_how_much(processor):
    texts = ["a dog", "a guitar a guitar a guitar a guitar a guitar a guitar"]
    whole = processor(text=texts, truncation=False, padding=False)["input_ids"]
    lost = len(whole[1]) - 11
    assert lost > 0 and len(whole[0]) <= 11
    with pytest.warns(UserWarning) as caught:
        inputs = processor(text=texts, return_tensors="pt")
    [message] = [str(warning.message) for warning in caught]
    assert message == f"text[1] ({texts[1]!r}) has {lost + 11} tokens and the limit is 11: the last {lost} are cut off"
    assert inputs["input_ids"].shape == (2, 11)
    assert inputs["input_ids"][1, -1] == processor.tokenizer.sep_token_id  # the text still ends as it should
    with pytest.warns(UserWarning, match=r"text\[0\] .* the limit is 3"):
        assert max(map(len, processor(text=texts[:1], max_length=3)["input_ids"])) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        processor(text=CAPTIONS, max_length=100)
        SlapProcessor(SlapFeatureExtractor(), make_tokenizer(limit=int(1e30)))(text=texts)


@pytest.mark.parametrize(
    "text, complaint",
    [([], "empty list"), ("", r"text\[0\] is empty"), (["a dog", "  "], r"text\[1\] is empty"), (5, "int"),
     (["a dog", None], r"text\[1\] is NoneType"), (["a dog", ("a", "b")], r"text\[1\] is tuple")],
)  # fmt: skip
def test_texts_that_say_nothing_are_refused(processor, text, complaint):
    with pytest.raises(ValueError, match=complaint):
        processor(text=text)


def test_nothing_at_all_is_refused(processor):
    with pytest.raises(ValueError, match="text=, audio=, or both"):
        processor()
    with pytest.raises(ValueError, match="audio is an empty list"):
        processor(audio=[])


def test_a_tokenizer_without_words_is_refused():
    hollow = make_tokenizer(texts=["aaa"])
    assert len(hollow) < 12
    with pytest.raises(ValueError, match=r"knows \d tokens besides its special ones.*tokenizer\.json"):
        SlapProcessor(SlapFeatureExtractor(), hollow)


def test_captions_are_decoded_without_special_tokens(processor):
    ids = processor(text=CAPTIONS, return_tensors="pt")["input_ids"]
    assert processor.batch_decode(ids) == CAPTIONS
    assert processor.decode(ids[1]) == CAPTIONS[1]
    assert processor.decode(ids[1], skip_special_tokens=False).startswith("[CLS]")


def test_it_is_saved_and_found_again_by_the_auto_classes(processor, clips, tmp_path):
    AutoFeatureExtractor.register(SlapConfig, SlapFeatureExtractor, exist_ok=True)
    AutoProcessor.register(SlapConfig, SlapProcessor, exist_ok=True)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is SlapProcessor and type(loaded.feature_extractor) is SlapFeatureExtractor
    before, after = (p(text=CAPTIONS, audio=clips, return_tensors="pt") for p in (processor, loaded))
    assert set(before) == set(after)
    for name in before:
        assert torch.equal(before[name], after[name])
    parameters = processor.feature_extractor.to_dict()
    assert parameters.items() <= AutoFeatureExtractor.from_pretrained(tmp_path).to_dict().items()
    assert parameters.items() <= loaded.feature_extractor.to_dict().items()
