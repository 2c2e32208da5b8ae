"""A listener as mteb wants its encoders, so that mteb's benchmarks, MAEB among them, can be run."""

from typing import Any

import numpy as np

from .listeners import Listener, unit


def mteb_encoder(listener: Listener) -> Any:
    """An object of mteb's `EncoderProtocol` that embeds with a listener's model.

    Raises:
        ImportError: mteb is not installed.
    """
    try:
        from mteb.models import ModelMeta
    except ImportError as error:
        raise ImportError('MAEB is run by mteb: `pip install "hf_slap[maeb]"`') from error

    class Encoder:
        mteb_model_meta = ModelMeta.create_empty(
            {
                "name": listener.name if "/" in listener.name else f"local/{listener.name}",
                "revision": listener.revision or f"{listener.weights}-{listener.tokenizer}",
                "modalities": ["text", "audio"],
            }
        )

        def encode(self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, prompt_type: Any = None, **_: Any):  # fmt: skip # noqa: E501
            """(N, P) of texts, of clips, or the mean direction of both where a row has both."""
            inputs.collate_fn = list  # mteb's own needs torchaudio
            parts = []
            for rows in inputs:
                sides = []
                if "audio" in rows[0]:
                    waves = [listener.hear(row["audio"], resample=True) for row in rows]
                    sides.append(unit(listener.embed_waves(waves)))
                if "text" in rows[0]:
                    sides.append(listener.embed_texts([row["text"] for row in rows]))
                parts.append(unit(np.sum(sides, axis=0)))
            return np.concatenate(parts)

        def similarity(self, embeddings1: Any, embeddings2: Any):
            """(N, M) cosines."""
            import torch

            one, two = (torch.atleast_2d(torch.as_tensor(np.asarray(x))) for x in (embeddings1, embeddings2))
            return one @ two.T

        def similarity_pairwise(self, embeddings1: Any, embeddings2: Any):
            """(N,) cosines of row with row."""
            import torch

            return (torch.as_tensor(np.asarray(embeddings1)) * torch.as_tensor(np.asarray(embeddings2))).sum(-1)

    return Encoder()
