"""aMUSEd (Patil et al. 2024): a U-ViT on the tokens of a VQGAN, one CLIP text encoder."""

from __future__ import annotations

from torch import Tensor, nn

from tgo.pipeline.generators.base import Conditions
from tgo.pipeline.generators.masked import Masked


class Amused(Masked):
    """`amused/amused-256`, `amused/amused-512` and models of their kind; see `Masked`.

    Its network is not told the timestep: it sees how much is hidden.
    """

    name = "amused"

    def _load_network(self) -> nn.Module:
        network: nn.Module = self._folder.load("transformer", self._dtype)
        # diffusers says that it can, and fails in the first forward pass
        network._supports_gradient_checkpointing = False  # type: ignore[assignment]
        return network

    def _side(self) -> int:
        return int(self.network.config.sample_size)  # type: ignore[union-attr,arg-type]

    def _logits(
        self, network: nn.Module, tokens: Tensor, conditions: Conditions, timesteps: Tensor
    ) -> Tensor:
        dtype = next(network.parameters()).dtype
        logits: Tensor = network(
            tokens,
            encoder_hidden_states=conditions["embeddings"].to(self._device, dtype),
            pooled_text_emb=conditions["pooled"].to(self._device, dtype),
            micro_conds=self._told_of(tokens, dtype),
        )
        return logits.float()
