"""What every method on user vectors shares: whose vectors they are, and that they are its evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from prunebench.datasets.schema import Samples
from prunebench.methods.base import Evidence, Method
from prunebench.methods.clustering import checked
from prunebench.recommenders.base import Config, Request
from prunebench.recommenders.runtime import Runtime


class VectorConfig(Config):
    """Where user vectors come from."""

    signal: Literal["surrogate", "backbone"] = Field(
        default="surrogate", description="whose user vectors: the trained surrogate's, or the LLM's before fine-tuning"
    )


class VectorMethod(Method):
    """A method that selects on one vector per sample; its evidence is the vectors as they are, float32 [n, d]."""

    Config: ClassVar[type[Any]] = VectorConfig

    def requests(self) -> dict[str, Request]:
        """``user_vectors`` float32 [n, d], of each user's whole training sequence."""
        return {"user_vectors": Request("user_vectors", {"source": self.config.signal})}

    def evidence_key(self) -> dict[str, Any]:
        """Nothing beyond the requests: all knobs belong to the selection."""
        return {}

    def prepare(self, samples: Samples, signals: Mapping[str, Any], runtime: Runtime) -> Evidence:
        """The vectors asked for, by their name. Raises MethodError where one is missing or not finite."""
        return {name: checked(signals[name], samples.ids, name).astype(np.float32) for name in self.requests()}
