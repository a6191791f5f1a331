"""The residual-quantised autoencoder of item vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunebench.recommenders.base import Float32
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.tiger.config import TokeniserConfig
from prunebench.recommenders.tiger.quantised import Quantised


def train_rqvae(rows: Float32, counts: NDArray[np.int64], config: TokeniserConfig, runtime: Runtime) -> Quantised:
    raise NotImplementedError
