"""Meissonic (Bai et al. 2024): a multi-modal transformer on the tokens of a VQGAN."""

from __future__ import annotations

from torch import Tensor, nn

from tgo.pipeline.generators.base import Conditions
from tgo.pipeline.generators.masked import Masked
from tgo.pipeline.generators.meissonic_transformer import MeissonicTransformer


class Meissonic(Masked):
    """`MeissonFlow/Meissonic` and models of its kind; see `Masked`."""

    name = "meissonic"

    def _load_network(self) -> nn.Module:
        network: nn.Module = self._folder.load(
            "transformer", self._dtype, kind=MeissonicTransformer
        )
        return network

    def _side(self) -> int:
        return int(self.network.side)  # type: ignore[arg-type]

    def _logits(
        self, network: nn.Module, tokens: Tensor, conditions: Conditions, timesteps: Tensor
    ) -> Tensor:
        dtype = next(network.parameters()).dtype
        logits: Tensor = network(
            tokens,
            encoder_hidden_states=conditions["embeddings"].to(self._device, dtype),
            pooled_projections=conditions["pooled"].to(self._device, dtype),
            timesteps=timesteps,
            micro_conds=self._told_of(tokens, dtype),
        )
        return logits.float()
