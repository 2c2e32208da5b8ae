"""Two tasks for transformers' `pipeline`: "audio-captioning" and "audio-feature-extraction".

Both take whatever `SlapFeatureExtractor` takes: a path or URL, the bytes of a file, an array with its sampling rate,
{"array", "sampling_rate"}, {"bytes", "path"}, or an AudioDecoder. A list, a generator or a dataset of these is served
clip by clip, or in batches with `batch_size`; a clip's result does not depend on the others in its batch.
"""

from typing import Any

from torch import Tensor
from transformers import BatchFeature, Pipeline


class _AudioPipeline(Pipeline):
    """Clips in; what comes out is the business of the two tasks below."""

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = True

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        if isinstance(inputs, (list, tuple)) and not inputs:
            return []
        return super().__call__(list(inputs) if isinstance(inputs, tuple) else inputs, **kwargs)

    def preprocess(self, audio: Any, sampling_rate: int | None = None, resample: bool = False) -> BatchFeature:
        features = self.feature_extractor([audio], sampling_rate=sampling_rate, resample=resample, return_tensors="pt")
        return features.to(self.dtype)


class AudioCaptioningPipeline(_AudioPipeline):
    """Says in words what is heard: `pipeline("audio-captioning", model=folder)("rain.wav")`.

    Keywords, given here or at each call:
        sampling_rate: of the arrays, in Hz. Files carry their own.
        resample: whether arrays at another rate are resampled instead of refused.
        generate_kwargs: settings of `generate()`, such as `{"num_beams": 3}`. Any other keyword is taken as one of
            them, so `max_new_tokens=20` may be written directly; `generate()` refuses what it does not know.
    Returns:
        for a clip, a list of `num_return_sequences` (1 unless set) dictionaries `{"generated_text": str}`; for several
        clips, a list of such lists.
    Raises:
        ValueError: a clip that cannot be heard, or an unknown keyword.
    """

    _load_tokenizer = True

    def _sanitize_parameters(
        self,
        sampling_rate: int | None = None,
        resample: bool | None = None,
        generate_kwargs: dict | None = None,
        **more_generate_kwargs: Any,
    ) -> tuple[dict, dict, dict]:
        twice = sorted(set(generate_kwargs or {}) & set(more_generate_kwargs))
        if twice:
            raise ValueError(f"{twice} are given both directly and in generate_kwargs; give each once")
        forward = {**(generate_kwargs or {}), **more_generate_kwargs}
        return _given(sampling_rate=sampling_rate, resample=resample), forward, {}

    def _forward(self, features: dict, **generate_kwargs: Any) -> dict[str, Tensor]:
        settings = {**self.model.generation_config.to_diff_dict(), **generate_kwargs}
        if not {"max_length", "max_new_tokens", "generation_config"} & settings.keys():
            # A caption ends by itself; the model's limit is the only bound. generate() would stop at 20 tokens.
            generate_kwargs["max_length"] = self.model.longest_caption
        tokens = self.model.generate(**features, **generate_kwargs)
        return {"tokens": tokens.unflatten(0, (len(features["input_features"]), -1))}  # (clips, captions, length)

    def postprocess(self, outputs: dict[str, Tensor]) -> list[dict[str, str]]:
        captions = self.tokenizer.batch_decode(outputs["tokens"][0], skip_special_tokens=True)
        return [{"generated_text": caption.strip()} for caption in captions]


class AudioEmbeddingPipeline(_AudioPipeline):
    """The embedding of a clip in the space shared with text: `pipeline("audio-feature-extraction", model=folder)`.

    Keywords, given here or at each call:
        sampling_rate, resample: as for `AudioCaptioningPipeline`.
        return_tensors: whether to return tensors instead of lists.
    Returns:
        for a clip, (projection_dim,) of unit norm, a list of floats or a float32 tensor; for several clips, a list of
        these.
    Raises:
        ValueError: a clip that cannot be heard.
    """

    _load_tokenizer = False

    def _sanitize_parameters(
        self,
        sampling_rate: int | None = None,
        resample: bool | None = None,
        return_tensors: bool | None = None,
    ) -> tuple[dict, dict, dict]:
        preprocess = _given(sampling_rate=sampling_rate, resample=resample)
        return preprocess, {}, _given(return_tensors=return_tensors)

    def _forward(self, features: dict) -> Tensor:
        return self.model.get_audio_features(**features).pooler_output

    def postprocess(self, embedding: Tensor, return_tensors: bool = False) -> Tensor | list[float]:
        return embedding[0].float() if return_tensors else embedding[0].float().tolist()


def _given(**keywords: Any) -> dict:
    """Those that the caller set: a call's settings must not undo the pipeline's with defaults."""
    return {name: value for name, value in keywords.items() if value is not None}


__all__ = ["AudioCaptioningPipeline", "AudioEmbeddingPipeline"]
