"""Says which of your labels fits a sound, by onnxruntime: neither torch nor transformers is imported.

    python -c "import hf_slap.onnx; hf_slap.onnx.export_onnx('org/slap', 'slap-onnx')"     # once, with torch
    pip install --no-deps hf_slap && pip install numpy soundfile soxr onnxruntime tokenizers
    python examples/onnx_without_torch.py slap-onnx clip.wav --labels "a dog" "rain" "a guitar"

Scores are those of the pipeline "zero-shot-audio-classification".
"""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

from hf_slap.modeling.audio_slap import load_waveform  # soundfile and soxr
from hf_slap.modeling.front_end_slap import audio_windows, log_mel_spectrogram  # numpy


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


class OnnxSlap:
    """The files that `export_onnx` wrote.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        self.audio_model = InferenceSession(folder / "audio_model.onnx")
        self.text_model = InferenceSession(folder / "text_model.onnx")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.settings = json.loads((folder / "settings.json").read_text())
        self.front_end = SimpleNamespace(**self.settings["front_end"])
        self.audio_config = SimpleNamespace(**self.settings["audio_config"])

    def log_mel(self, sound) -> np.ndarray:
        """(F, M): a file, bytes, or {"array", "sampling_rate"} as normalised log-mel frames."""
        front = self.front_end
        waveform = load_waveform(sound, front.sampling_rate, resample=True, min_samples=front.min_samples)
        arrays = np.array(front.window), np.array(front.mel_filters)
        log_mel = log_mel_spectrogram(waveform, *arrays, front.hop_length, front.log_floor)
        return (log_mel - np.float32(front.mean)) / np.float32(front.std)

    def embed_sound(self, sound) -> np.ndarray:
        """(P,), unit norm. A clip longer than the model was trained on is heard in overlapping windows."""
        frames, width = self.log_mel(sound), self.audio_config.patch_frames
        total = 0
        for start, end, own_start, own_end in audio_windows(len(frames) // width, self.audio_config):
            features = frames[None, start * width : end * width]
            mask = np.ones(features.shape[:2], np.int64)  # 0 would be padding, in a batch of clips
            inputs = {"input_features": features, "input_features_mask": mask}
            [projected] = self.audio_model.run(["audio_projected"], inputs)
            total = total + (own_end - own_start) * projected[0]
        return unit(total)

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """(texts, P), unit norm."""
        tokens = self.tokenizer.encode_batch(texts)
        ids = np.array([one.ids for one in tokens])
        mask = np.array([one.attention_mask for one in tokens])
        return self.text_model.run(["text_embeds"], {"input_ids": ids, "attention_mask": mask})[0]

    def classify(self, sound, labels: list[str], template: str = "This is a sound of {}.") -> dict[str, float]:
        """The share of each label, best first."""
        cosines = self.embed_texts([template.format(label) for label in labels]) @ self.embed_sound(sound)
        logits = self.settings["logit_scale"] * cosines + (self.settings["logit_bias"] or 0)
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        return {labels[place]: float(shares[place]) for place in np.argsort(-shares)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="what export_onnx wrote")
    parser.add_argument("sounds", nargs="+", help="sound files")
    parser.add_argument("--labels", nargs="+", required=True)
    arguments = parser.parse_args()
    slap = OnnxSlap(arguments.folder)
    for sound in arguments.sounds:
        print(sound)
        for label, share in slap.classify(sound, arguments.labels).items():
            print(f"  {share:7.2%}  {label}")


if __name__ == "__main__":
    main()
