"""What claims.py asks of every model that it trained: SLAP's towers and transformers' ClapModel by the same protocol.

Both hear the same log-mel, the first seconds of each clip. All shares; per clip (or per query), so that differences can
be paired. Text measures need a text tower that learned, captions a decoder that did.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from pretrain_clap import FRAMES_PER_SECOND, clap_input
from transformers import AutoModel, AutoTokenizer, ClapModel, PreTrainedModel

from hf_slap import SlapFeatureExtractor, SlapForAudioCaptioning
from hf_slap.evaluation.captioning import caption_scores
from hf_slap.evaluation.probes import attention_probe, linear_probe
from hf_slap.evaluation.retrieval import chance_recall, query_values, relevance
from hf_slap.evaluation.word_overlap import word_overlap
from hf_slap.evaluation.zero_shot import hits

CLIPS_AT_ONCE = 32
PROBE_L2 = 0.1  # as for few shots: what a search would choose differs little, and it costs as much as a small training
PROBE_EPOCHS, PROBE_RATE = 25, 3e-3


class Heard(NamedTuple):
    """Clips as a model hears them.

    Args:
        embeds: (N, P), unit norm.
        frames: (T, D) dense features of each clip.
    """

    embeds: np.ndarray
    frames: list[np.ndarray]


class Judge:
    """The clips of the measures, decoded once.

    Args:
        train: corpus with labels, from which the probes learn.
        held_out: corpus that no model learned from.
        seconds: clips are heard so far.
        prompt: of zero-shot classification, with "{label}".
        clips_per_class: probes learn from at most so many of a class, those that come first in the corpus.
    """

    def __init__(self, train: Dataset, held_out: Dataset, seconds: float, prompt: str, clips_per_class: int):
        self.extractor = SlapFeatureExtractor()
        self.frames = round(seconds * FRAMES_PER_SECOND)
        self.held_out = [self.log_mel(clip) for clip in held_out]
        self.captions = held_out["captions"]
        self.texts, self.relevant = relevance(self.captions)
        held_labels = held_out["label"]
        self.labels = sorted(set(held_labels))
        self.prompts = [prompt.format(label=label) for label in self.labels]
        self.target = np.array([self.labels.index(label) for label in held_labels])

        self.classes = sorted(set(train["label"]) & set(held_labels))
        seen: dict[str, list[int]] = {label: [] for label in self.classes}
        for row, label in enumerate(train["label"]):
            if len(seen.get(label, range(clips_per_class))) < clips_per_class:
                seen[label].append(row)
        rows = sorted(row for its in seen.values() for row in its)
        self.train = [self.log_mel(clip) for clip in train.select(rows)]
        self.train_targets = self._one_hot([train[row]["label"] for row in rows])
        self.known = np.flatnonzero([label in self.classes for label in held_labels])
        self.known_targets = self._one_hot([held_labels[row] for row in self.known])

    def log_mel(self, clip: dict) -> np.ndarray:
        """(T, M) of the first seconds of a clip."""
        wave = self.extractor.load(clip["audio"], name=clip["id"])
        return self.extractor.log_mel(wave)[: self.frames]

    def _one_hot(self, labels: list[str]) -> np.ndarray:
        return np.eye(len(self.classes))[[self.classes.index(label) for label in labels]]

    def chance(self) -> dict[str, float]:
        """What guessing gives: uniform guesses of a class, a random order of answers."""
        probe = 1 / len(self.classes)
        by_rank = {
            f"{way} recall@{k}": chance_recall(right, k)
            for way, right in (("text to audio", self.relevant.T), ("audio to text", self.relevant))
            for k in (1, 10)
        }
        return {"zero-shot": 1 / len(self.labels), **by_rank, "linear probe": probe, "attention probe": probe}

    def counts(self) -> dict[str, float]:
        """How many clips, classes and texts the measures are over, and the share of the probes' most frequent class."""
        return {
            "held-out clips": len(self.held_out), "classes": len(self.labels), "texts": len(self.texts),
            "probe clips": len(self.train), "probe classes": len(self.classes), "probe held-out clips": len(self.known),
            "probe majority": float(self.known_targets.mean(0).max()),
        }  # fmt: skip

    # ------------------------------------------------------------------------------------------ what is measured
    def measure(self, folder: Path, reads: bool, writes: bool) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """{measure: value} and, of those that are means over clips or queries, {measure: (N,)}.

        Args:
            folder: of a model of `pretrain.py` or `pretrain_clap.py`.
            reads: its text tower learned: zero-shot classification and retrieval.
            writes: its decoder learned: captions.
        """
        model = AutoModel.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        train, held_out = self.hear(model, self.train), self.hear(model, self.held_out)
        per_clip, values = self.probes(train, held_out), {}
        if reads:
            per_clip |= self.reading(model, tokenizer, held_out)
        if writes:
            written = self.write(SlapForAudioCaptioning.from_pretrained(folder).eval(), tokenizer)
            overlaps = [word_overlap([mine], [right]) for mine, right in zip(written, self.captions, strict=True)]
            per_clip["caption word F1"] = np.array([overlap["word f1"] for overlap in overlaps])
            values["caption CIDEr-D"] = caption_scores(written, self.captions, ["CIDEr-D"], java=False).values[
                "CIDEr-D"
            ]
            values["different captions"] = len(set(written)) / len(written)
        values |= {name: float(value.mean()) for name, value in per_clip.items()}
        return values, per_clip

    def probes(self, train: Heard, held_out: Heard) -> dict[str, np.ndarray]:
        """Hits of classifiers on frozen dense features, pooled by their mean or by learned attention."""
        test = [held_out.frames[row] for row in self.known]
        right = self.known_targets.argmax(1)
        means = [np.stack([frames.mean(0) for frames in side]) for side in (train.frames, test)]
        by_mean, _ = linear_probe(means[0], self.train_targets, means[1], False, l2=PROBE_L2)
        by_attention, _ = attention_probe(
            train.frames, self.train_targets, test, False, epochs=PROBE_EPOCHS, learning_rate=PROBE_RATE
        )
        return {"linear probe": hits(by_mean, right), "attention probe": hits(by_attention, right)}

    def reading(self, model: PreTrainedModel, tokenizer, held_out: Heard) -> dict[str, np.ndarray]:
        """Hits of zero-shot classification, and of retrieval both ways."""
        texts, prompts = self.read(model, tokenizer, self.texts), self.read(model, tokenizer, self.prompts)
        found = {"zero-shot": hits(held_out.embeds @ prompts.T, self.target)}
        for way, queries, answers, right in (
            ("text to audio", texts, held_out.embeds, self.relevant.T),
            ("audio to text", held_out.embeds, texts, self.relevant),
        ):
            values = query_values(queries, answers, right, ks=(1, 10))
            found |= {f"{way} recall@{k}": values[f"recall@{k}"] for k in (1, 10)}
        return found

    # ------------------------------------------------------------------------------------------ what models say
    @torch.inference_mode()
    def hear(self, model: PreTrainedModel, clips: list[np.ndarray]) -> Heard:
        embeds: list[np.ndarray | None] = [None] * len(clips)
        frames: list[np.ndarray | None] = [None] * len(clips)
        for rows, inputs in self._batches(clips, isinstance(model, ClapModel)):
            output = model.get_audio_features(**inputs)
            hidden = output.last_hidden_state
            if isinstance(model, ClapModel):
                dense = list(hidden.flatten(2).transpose(1, 2))  # (B, D, rows, columns) to (B, T, D)
            else:
                tall = model.config.audio_config.patch_rows
                dense = [
                    h[m].unflatten(0, (-1, tall)).mean(1) for h, m in zip(hidden, output.attention_mask, strict=True)
                ]
            for row, embed, its in zip(rows, output.pooler_output, dense, strict=True):
                embeds[row], frames[row] = embed.numpy(), its.numpy()
        return Heard(np.stack(embeds), frames)

    @torch.inference_mode()
    def read(self, model: PreTrainedModel, tokenizer, texts: list[str]) -> np.ndarray:
        """(N, P), unit norm."""
        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output.numpy()

    @torch.inference_mode()
    def write(self, captioner: SlapForAudioCaptioning, tokenizer) -> list[str]:
        """The greedy caption of every held-out clip."""
        written = [""] * len(self.held_out)
        longest = captioner.longest_caption
        for rows, inputs in self._batches(self.held_out, False):
            tokens = captioner.generate(**inputs, max_length=longest)
            for row, text in zip(rows, tokenizer.batch_decode(tokens, skip_special_tokens=True), strict=True):
                written[row] = text.strip()
        return written

    def _batches(self, clips: list[np.ndarray], as_clap: bool):
        order = np.argsort([len(clip) for clip in clips], kind="stable")
        for start in range(0, len(order), CLIPS_AT_ONCE):
            rows = order[start : start + CLIPS_AT_ONCE]
            mine = [clips[row] for row in rows]
            lengths = torch.tensor([len(clip) for clip in mine])
            if as_clap:
                sound = clap_input(np.concatenate(mine), lengths.tolist(), self.frames)
                yield rows, {"input_features": torch.from_numpy(sound)}
            else:
                features = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in mine], batch_first=True)
                mask = torch.arange(features.shape[1]) < lengths[:, None]
                yield rows, {"input_features": features, "input_features_mask": mask}
