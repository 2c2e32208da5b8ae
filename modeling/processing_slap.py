"""Sound and text to the inputs of SLAP, and token ids back to captions."""

import warnings
from typing import Any

from transformers import BatchFeature, ProcessorMixin

MIN_VOCABULARY = 16  # ordinary tokens; even a tokenizer of single letters has more
NO_LIMIT = 10**6  # tokenizers that know no limit say 1e30


class SlapProcessor(ProcessorMixin):
    """A `SlapFeatureExtractor` and the tokenizer of the text tower in one object.

    Args:
        feature_extractor: makes `input_features` and `input_features_mask`.
        tokenizer: makes `input_ids` and `attention_mask`.
    Raises:
        ValueError: the tokenizer knows almost no tokens: its files were not found when it was loaded.
    """

    def __init__(self, feature_extractor, tokenizer):
        ordinary = len(tokenizer) - len(set(tokenizer.all_special_ids))
        if ordinary < MIN_VOCABULARY:
            raise ValueError(
                f"{type(tokenizer).__name__} from {tokenizer.name_or_path!r} knows {ordinary} tokens besides its "
                f"special ones, so every text would look alike; at least {MIN_VOCABULARY} are expected: check that its "
                "vocabulary files (tokenizer.json) lie in that folder"
            )
        super().__init__(feature_extractor, tokenizer)

    def __call__(
        self,
        text: str | list[str] | None = None,
        audio: Any = None,
        sampling_rate: int | None = None,
        resample: bool = False,
        padding: bool | str = True,
        truncation: bool | str = True,
        max_length: int | None = None,
        return_tensors: str | None = None,
        text_kwargs: dict[str, Any] | None = None,
        audio_kwargs: dict[str, Any] | None = None,
        common_kwargs: dict[str, Any] | None = None,
        images_kwargs: dict[str, Any] | None = None,
        videos_kwargs: dict[str, Any] | None = None,
    ) -> BatchFeature:
        """Inputs for `SlapModel` from text, sound, or both.

        Args:
            text: one text or a list of texts.
            audio: one clip or a list of clips, in any form that `SlapFeatureExtractor.load` reads.
            sampling_rate: Hz, of the arrays that come without their own.
            resample: resample arrays at another rate; otherwise they are an error.
            padding: True fills up to the longest text and the longest clip.
            truncation: cut texts over the limit, with a warning that says which and by how much.
            max_length: the limit, in tokens; None takes the tokenizer's.
            return_tensors: "pt", "np" or None.
            text_kwargs, audio_kwargs, common_kwargs: the same options for one side or for both, as transformers'
                processors take them; they come before the arguments above.
            images_kwargs, videos_kwargs: must be empty.
        Returns:
            input_ids and attention_mask (B, L) for text; input_features (B, T, M) and input_features_mask (B, T) for
            audio.
        Raises:
            ValueError: neither text nor audio, an empty list, an empty text.
            AudioError: see `SlapFeatureExtractor.load`.
        """
        if images_kwargs or videos_kwargs:
            raise ValueError("SLAP takes text and audio; images_kwargs and videos_kwargs must be empty")
        if text is None and audio is None:
            raise ValueError("nothing to process: pass text=, audio=, or both")
        shared = {"padding": padding, "return_tensors": return_tensors, **(common_kwargs or {})}
        inputs = {}
        if text is not None:
            options = {**shared, "truncation": truncation, "max_length": max_length, **(text_kwargs or {})}
            inputs.update(self._tokenize(_as_texts(text), **options))
        if audio is not None:
            options = {**shared, "sampling_rate": sampling_rate, "resample": resample, **(audio_kwargs or {})}
            inputs.update(self.feature_extractor(audio, **options))
        return BatchFeature(inputs)

    def decode(self, token_ids: Any, skip_special_tokens: bool = True, **kwargs: Any) -> str:
        """One caption (L,) as text; options as for the tokenizer's `decode`."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens, **kwargs)

    def batch_decode(self, token_ids: Any, skip_special_tokens: bool = True, **kwargs: Any) -> list[str]:
        """Captions (B, L), as `generate` returns them, as texts; options as for the tokenizer's `batch_decode`."""
        return self.tokenizer.batch_decode(token_ids, skip_special_tokens=skip_special_tokens, **kwargs)

    def _tokenize(self, texts: list[str], truncation: bool | str, max_length: int | None, **options: Any) -> Any:
        limit = max_length or self.tokenizer.model_max_length
        if not truncation or truncation == "do_not_truncate" or limit > NO_LIMIT:
            options.update(truncation=False, max_length=max_length)
            return self.tokenizer(texts, return_token_type_ids=False, **options)
        for index, ids in enumerate(self.tokenizer(texts, verbose=False)["input_ids"]):
            if len(ids) > limit:
                shown = texts[index] if len(texts[index]) <= 60 else texts[index][:57] + "..."
                warnings.warn(
                    f"text[{index}] ({shown!r}) has {len(ids)} tokens and the limit is {limit}: the last "
                    f"{len(ids) - limit} are cut off",
                    stacklevel=3,
                )
        return self.tokenizer(texts, return_token_type_ids=False, truncation=True, max_length=limit, **options)


def _as_texts(text: Any) -> list[str]:
    """A list of texts from one or several, none of them empty."""
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, list | tuple):
        raise ValueError(f"text is {type(text).__name__}; pass a string or a list of strings")
    if not texts:
        raise ValueError("text is an empty list; pass at least one text or label")
    for index, one in enumerate(texts):
        if not isinstance(one, str):
            raise ValueError(f"text[{index}] is {type(one).__name__}; pass strings")
        if not one.strip():
            raise ValueError(f"text[{index}] is empty; there is nothing to compare a sound with")
    return list(texts)
