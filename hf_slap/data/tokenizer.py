"""A small byte-level BPE tokenizer trained on a corpus's own captions, for runs without a pretrained text tower."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, CLS, SEP, MASK = "[PAD]", "[CLS]", "[SEP]", "[MASK]"


def train_tokenizer(captions: Iterable[str], vocab_size: int = 2048, max_length: int = 64) -> PreTrainedTokenizerFast:
    """Trains a tokenizer: the same captions in the same order give the same tokenizer.

    Text is lower-cased. Every byte has a token, so there is no unknown text and no [UNK]. [CLS] begins a text and [SEP]
    ends it; they serve as bos and eos of the caption decoder too.

    Args:
        captions: the texts.
        vocab_size: at most so many tokens; fewer where the captions have no more pairs to merge.
        max_length: tokens of a text with [CLS] and [SEP], where `truncation=True` cuts.
    Raises:
        ValueError: no captions, or a vocabulary without room for the 256 bytes and the 4 special tokens.
    Not stated (the paper has the ModernBERT tokenizer); chosen because a few thousand captions need no 50,368 tokens.
    """
    captions = list(captions)
    if not any(caption.strip() for caption in captions):
        raise ValueError("no captions to train a tokenizer on")
    special = [PAD, CLS, SEP, MASK]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    smallest = len(alphabet) + len(special)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size is {vocab_size}; {len(alphabet)} bytes and {special} need at least {smallest}")
    if max_length < 3:
        raise ValueError(f"max_length is {max_length}; {CLS}, {SEP} and one token need at least 3")

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase(), normalizers.Strip()])
    # With a space before the first word too, a word is the same token wherever it stands.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(content=" ", left=1, right=0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in (CLS, SEP)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}", pair=f"{CLS} $A {SEP} $B {SEP}", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        cls_token=CLS,
        sep_token=SEP,
        bos_token=CLS,
        eos_token=SEP,
        mask_token=MASK,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def end_texts(tokenizer: PreTrainedTokenizerFast, tokens: list[str] | None = None) -> PreTrainedTokenizerFast:
    """Lets every text end with an end token, for text towers whose last token speaks for the text (GPT-2).

    Args:
        tokenizer: changed in place, and saved with the change. One without a padding token pads with its end token,
            which the attention mask hides.
        tokens: what ends a text; default: the tokenizer's eos, else its sep. CLAP 2023 has a space before the end:
            ["Ġ", "<|endoftext|>"].
    Returns:
        the tokenizer; as it came if its texts end like this already.
    Raises:
        ValueError: no end token, one that it does not know, or a tokenizer that puts other tokens around a text.
    """
    name, vocabulary = f"the tokenizer of {tokenizer.name_or_path!r}", tokenizer.get_vocab()
    tokens = tokens or [token for token in (tokenizer.eos_token, tokenizer.sep_token) if token][:1]
    if not tokens or set(tokens) - vocabulary.keys():
        raise ValueError(f"{name} cannot end texts with {tokens or 'an eos token'}: it does not know it; pass tokens=")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokens[-1]
    ids = [vocabulary[token] for token in tokens]
    whole, bare = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    if whole[-len(ids) :] == ids:
        return tokenizer
    if whole != bare:
        raise ValueError(f"{name} puts {tokenizer.convert_ids_to_tokens(whole)} around a text, not {tokens} behind it")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", *tokens], special_tokens=list(zip(tokens, ids, strict=True))
    )
    return tokenizer
