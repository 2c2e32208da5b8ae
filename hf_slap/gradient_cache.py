"""All negatives of a step whose clips do not fit into memory at once (GradCache).

The contrastive loss of a clip depends on the embeddings of all others, so those of micro-batches cannot be added up.
Its gradient can still be taken piece by piece:

1. every micro-batch is embedded without keeping activations, and the random state that it began with is remembered;
2. the loss of all embeddings together is taken, and its gradient with respect to each of them;
3. every micro-batch is run again from its random state, so that dropout repeats, and sum(embedding x its gradient) is
   differentiated in place of the loss: by the chain rule the weights get the gradient of the loss of the whole step.

Source: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup".
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .modeling.modeling_slap import SlapPreTrainingOutput
from .objectives import model_inputs, pretraining_losses

_PER_CLIP = ("audio_embeds", "text_embeds")
_SHARED = ("logit_scale", "logit_bias")


class ContrastiveCache:
    """The contrastive loss of all micro-batches of a step (and of all ranks), and its gradient in pieces.

    Args:
        model: `SlapForPreTraining`, as its engine runs it.
        batches: the collator's dicts, on the model's device; as many on every rank.
        shared_masked_pass: as for the model.
    """

    def __init__(
        self, model: Callable[..., SlapPreTrainingOutput], batches: Sequence[Mapping], shared_masked_pass: bool
    ):
        self.device = batches[0]["input_features"].device
        weights = {"contrastive": 1.0, "masked": float(shared_masked_pass), "caption": 0.0}
        outputs, self._states = [], []
        for batch in batches:
            self._states.append(random_state(self.device))
            with torch.no_grad():
                outputs.append(model(**model_inputs(batch, weights), shared_masked_pass=shared_masked_pass))
        self._clips = [len(batch["groups"]) for batch in batches]
        whole = {
            name: torch.cat([getattr(x, name)[:n] for x, n in zip(outputs, self._clips, strict=True)])
            for name in _PER_CLIP
        }
        shared = {name: getattr(outputs[0], name) for name in _SHARED}
        whole |= {name: value.detach().clone() for name, value in shared.items() if value is not None}
        for tensor in whole.values():
            tensor.requires_grad_()
        groups = {"groups": torch.cat([batch["groups"] for batch in batches])}
        weights["masked"] = 0.0
        loss = pretraining_losses(SlapPreTrainingOutput(**whole), groups, weights)["contrastive"]
        loss.backward()
        self.loss = loss.detach()  # (), of all micro-batches of this rank; the mean over ranks is that of the step
        self.audio_embeds, self.text_embeds = (whole[name].detach() for name in _PER_CLIP)
        self._gradients = {name: tensor.grad for name, tensor in whole.items()}

    def rewind(self, number: int) -> None:
        """Call before micro-batch `number` is run again: dropout will repeat."""
        set_random_state(self._states[number], self.device)

    def surrogate(self, number: int, outputs: SlapPreTrainingOutput) -> Tensor:
        """(), whose gradient is what micro-batch `number` contributes to that of the loss; its value means nothing.

        Args:
            number: from 0.
            outputs: of the micro-batch, with activations.
        """
        clips = self._clips[number]
        total = torch.zeros((), device=self.device)
        for name in _PER_CLIP:
            gradient = self._gradients[name].split(self._clips)[number]
            total = total + (getattr(outputs, name)[:clips] * gradient).sum()
        for name in _SHARED:
            if name in self._gradients:
                total = total + getattr(outputs, name) * self._gradients[name] / len(self._clips)
        return total


def random_state(device: torch.device) -> list[Tensor]:
    """torch's random state of the CPU and of the device."""
    states = [torch.get_rng_state()]
    return states if device.type == "cpu" else [*states, torch.get_device_module(device).get_rng_state(device)]


def set_random_state(states: Sequence[Tensor], device: torch.device) -> None:
    """Puts `random_state` back."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], device)
