"""What a launcher of several processes, `torchrun` or `accelerate launch`, tells each of them in its environment."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """Process ``rank`` of ``size``, of these ``local_rank`` of ``local_size`` on this machine; ``variables`` say so."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def words(self) -> str:
        """What the hardware's description starts with."""
        machines = self.size // self.local_size
        return f"{self.size} processes{f' on {machines} machines' if machines > 1 else ''} × " if self.size > 1 else ""


def taken(environment: MutableMapping[str, str]) -> Launch:
    """The launch, its variables taken out of the environment: no library is to wait for the others by itself.

    The settings of `accelerate launch`, which starts `torchrun`, go too: they would overrule ours.
    """
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return Launch()
    rank, size, local_rank, local_size = (int(environment[name]) for name in NUMBERS)
    names = {*NUMBERS, *ADDRESS, *(name for name in environment if name.startswith(("TORCHELASTIC_", "ACCELERATE_")))}
    variables = {name: environment.pop(name) for name in sorted(names)}
    ours = {name: value for name, value in variables.items() if not name.startswith("ACCELERATE_")}
    return Launch(rank, size, local_rank, local_size, ours)
