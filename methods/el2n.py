"""EL2N: the samples a model is most wrong about early in training (Paul et al., NeurIPS 2021)."""

from __future__ import annotations

from pydantic import Field

from prunebench.methods.scores import EL2NConfig, HighestFirst, Source


class EL2N(HighestFirst):
    """Expected L2 norm of the error vector ‖p(x) − onehot(y)‖₂, largest first (Paul et al., NeurIPS 2021, Definition 2.2).

    On the surrogate, p is the softmax over all items after the history x and y the next item; on the backbone, the mean
    over the answer's tokens before fine-tuning. The paper averages ten runs at one early epoch; by default one run's first
    ten epochs are averaged here, a tenth of the cost.
    """

    class Config(EL2NConfig):
        """``runs`` and ``epochs`` are the surrogate's."""

        signal: Source = Field(default="surrogate", description="surrogate, or backbone: the LLM before fine-tuning")

    score = "el2n"
