"""GraNd: the samples with the largest gradients early in training (Paul et al., NeurIPS 2021)."""

from __future__ import annotations

from pydantic import Field

from prunebench.methods.scores import GraNdConfig, HighestFirst, Source


class GraNd(HighestFirst):
    """Expected gradient norm E‖∇_w ℓ(s)‖₂ over initialisations, largest first (Paul et al., NeurIPS 2021, Definition 2.1).

    Ten surrogates are trained from seeds of their own, ten epochs each, and all ten are billed. On the backbone it is the
    effort score, the norm of the LLM's gradient before fine-tuning (Eq. 12 of the DEALRec paper).
    """

    class Config(GraNdConfig):
        """``runs``, ``epochs`` and ``scope`` are the surrogate's."""

        signal: Source = Field(default="surrogate", description="surrogate, or backbone: the LLM's effort")

    score = "grand"
