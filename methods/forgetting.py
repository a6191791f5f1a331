"""Forgetting: the samples most often unlearnt during training (Toneva et al., ICLR 2019)."""

from __future__ import annotations

from prunebench.methods.scores import ForgettingConfig, HighestFirst


class Forgetting(HighestFirst):
    """Number of times a sample goes from right to wrong while a surrogate trains, most forgotten first (Toneva et al.,
    ICLR 2019). Right means that the target ranks among the ``top`` items.

    Samples that never were right come before all others, as in the paper. The paper looks at a sample when a batch holds
    it, here all are looked at after each epoch, in evaluation mode. The counts are few and small: ties are many, and are
    broken at random.
    """

    Config = ForgettingConfig
    score = "forgetting"
