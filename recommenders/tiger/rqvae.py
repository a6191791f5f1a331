"""The residual-quantised autoencoder of item vectors."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from vector_quantize_pytorch import ResidualVQ

from prunebench.recommenders.base import Float32, RecommenderError
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.tiger.config import TokeniserConfig
from prunebench.recommenders.tiger.quantised import Quantised

DECAY = 0.95
"""Of the moving averages that a codebook is made of, per batch."""
FIRST = 4
"""Items per code that K-means makes the first codebooks of; with the paper's 256 codes, its batch of 1,024 items."""
BLOCK = 1 << 13
"""Vectors quantised at once: a row of distances for each is held."""


class RQVAE(nn.Module):
    """Encoder, residual quantiser and decoder of vectors of ``dimension``, with ``codes`` per codebook.

    The codebooks are moving averages of what is assigned to their codes (van den Oord et al., NeurIPS 2017, appendix
    A.1), in place of the loss's second term ‖sg[r] − e‖²: on Games they then lose less, with fewer collisions. Gradients
    pass the quantiser straight through. A code that falls below the share ``revive`` of the mean usage takes the place
    of a vector of the batch. Draws from torch's global generator.
    """

    def __init__(self, dimension: int, codes: int, config: TokeniserConfig) -> None:
        super().__init__()
        settings = config.rqvae
        widths = (dimension, *settings.hidden, settings.width)
        self.encoder, self.decoder = _layers(widths), _layers(widths[::-1])
        self.commitment = settings.commitment * settings.width
        self.first = max(settings.batch, FIRST * codes)
        self.quantiser = ResidualVQ(
            dim=settings.width,
            num_quantizers=config.codebooks,
            codebook_size=codes,
            kmeans_init=True,
            decay=DECAY,
            threshold_ema_dead_code=settings.revive * settings.batch / codes,
            commitment_weight=1.0,
            rotation_trick=False,
            # The library's own straight-through estimate would pass the gradient once per level, not once.
            route_gradients_to_input=False,
        )

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Make the first codebooks by K-means of the encoded ``x`` [n, d], each level's of what is left by those before."""
        self.train().quantiser(self.encoder(x)[None])

    def loss(self, x: Tensor) -> Tensor:
        """Mean over ``x`` [n, d] of ‖x − x̂‖² + β Σ_l ‖r_l − sg[e_l]‖² (Rajput et al., 2023, §3.1); updates the codebooks."""
        latent = self.encoder(x)
        quantised, _, commitments = self.quantiser(latent[None])
        passed = latent + (quantised[0] - latent).detach()
        reconstruction = (self.decoder(passed) - x).square().sum(dim=1).mean()
        # The quantiser's term is a mean over the dimensions, the paper's a sum.
        return reconstruction + self.commitment * commitments.sum()

    def revived(self) -> Tensor:
        """Codes that the last batch revived, int64 []. Their average is their code itself, at the threshold's weight."""
        found = torch.zeros((), dtype=torch.int64, device=self.quantiser.layers[0].zero.device)
        for book in (layer._codebook for layer in self.quantiser.layers):
            placed = (book.embed_avg == book.embed * book.cluster_size[..., None]).all(dim=-1)
            found += (placed & (book.cluster_size == book.threshold_ema_dead_code)).sum()
        return found

    @torch.no_grad()
    def quantise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The codes of ``x`` [n, d], int64 [n, levels], and what the decoder makes of them, [n, d]."""
        self.eval()
        parts = [self.quantiser(self.encoder(part)[None]) for part in x.split(BLOCK)]
        codes = torch.cat([codes[0] for _, codes, _ in parts])
        return codes, torch.cat([self.decoder(quantised[0]) for quantised, _, _ in parts])


def train_rqvae(rows: Float32, counts: NDArray[np.int64], config: TokeniserConfig, runtime: Runtime) -> Quantised:
    """Codes of ``rows`` [n, d], distinct and about their mean, by an RQ-VAE trained on them.

    ``counts`` int64 [n]: the items that each row stands for; an epoch sees a row as often. The notes are ``epochs`` and
    ``codes_revived``, how often a dead code was put to use again. The result may depend on the device and on the
    number of threads, as sums of floats do. Raises RecommenderError where the training diverges.
    """
    settings = config.rqvae
    scale = np.float32(np.sqrt(np.mean(np.square(rows), dtype=np.float64)) or 1.0)
    data, items = (
        torch.from_numpy(rows / scale).to(runtime.device),
        torch.from_numpy(np.repeat(np.arange(len(rows)), counts)),
    )
    batches, order = -(-len(items) // settings.batch), runtime.torch_rng("RQ-VAE batches")
    # The quantiser's first centroids and the places of revived codes are drawn from the global generator.
    with torch.random.fork_rng():
        torch.manual_seed(runtime.derive("RQ-VAE"))
        model = RQVAE(rows.shape[1], min(config.codes, len(rows)), config).to(runtime.device)
        optimiser = torch.optim.Adam(model.parameters(), lr=settings.lr)
        model.initialise(data[items[torch.randperm(len(items), generator=order)[: model.first]]])
        revived = model.revived()
        for _ in runtime.track(range(settings.epochs), "RQ-VAE"):
            for batch in torch.randperm(len(items), generator=order).tensor_split(batches):
                optimiser.zero_grad()
                model.loss(data[items[batch]]).backward()
                optimiser.step()
                revived += model.revived()
        codes, reconstruction = model.quantise(data)
    if not reconstruction.isfinite().all():
        raise RecommenderError(f"the RQ-VAE diverged: lower tokeniser.rqvae.lr ({settings.lr}) or its commitment")
    return Quantised(
        codes.cpu().numpy(),
        tuple(model.quantiser.codebooks.cpu().numpy()),
        reconstruction.cpu().numpy() * scale,
        {"epochs": settings.epochs, "codes_revived": int(revived)},
    )


def _layers(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers = [layer for a, b in pairwise(widths) for layer in (nn.ReLU(), nn.Linear(a, b))]
    return nn.Sequential(*layers[1:])
