"""mini: invented games and their players, with planted noise and near-duplicates, the same on every machine.

**Items** are titles such as ``Starfall Quest 3 - PS2``: a franchise (a word of its own and the word of its genre), the
instalment (the first has no number) and a platform; some exist again in an edition (``… Gold Edition - PS2``), some are
listed twice under one title. Item and user numbers are shuffled: they are labels and carry nothing.

**Clean users** own one platform and walk through the catalogue. From their last item they go, most often, to the
*successor* of its franchise at the same instalment and platform; sometimes to the next instalment of the same
franchise; now and then to something popular (Zipf over franchises). Which franchise succeeds which is one fixed rule
for everybody. It always leads into another genre, and every franchise of a genre leads into the same next genre. So

- titles alone tell the wrong thing: the neighbours of a title are of its own franchise and genre;
- what carries over (instalment, platform) and the genre that follows are learned from few samples, the franchises'
  order from more of them: accuracy rises over the whole range from a dozen samples to all of them;
- what has to be learned sits in the interactions and is stated in words that the titles have.

**Noise users** have a last training item, the target of their sample, that no taste explains. Three kinds:
``push``, a plausible history that ends in one of a few obscure items somebody wants to see recommended (a shilling
attack: as this target never varies, a model that is unsure of the rule prefers it); ``crossed``, a plausible history
that ends in the franchise a fixed number of steps *off* the rule (systematic, and as easy to learn as the rule);
``scatter``, items at random throughout. **Duplicate users** are copies of a few template users, some without their
first item: correct, but a sample of them teaches little.

Validation and test continue the walks of clean users only, so whatever noise teaches is paid for there.
Everything is drawn from the raw 64-bit stream of PCG64, which NumPy keeps stable across versions and platforms, by
integer arithmetic only.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from prunebench.datasets.schema import RecDataset, Sequences

T = TypeVar("T")
Percent = int

GENRES = ("Quest", "Rally", "Tactics", "Arena", "Harvest", "Galaxy", "Mystery", "Soccer", "Dungeon", "Pirates")
PREFIXES = (
    *("Starfall", "Ember", "Hollow", "Crimson", "Thunder", "Velvet", "Iron", "Willow", "Cobalt", "Raven", "Sunset"),
    *("Glacier", "Phantom", "Amber", "Falcon", "Marble", "Lantern", "Copper", "Orchid", "Titan", "Meadow", "Cipher"),
    *("Saffron", "Blizzard", "Harbor", "Mirage", "Bramble", "Comet", "Juniper", "Onyx", "Paper", "Tundra", "Walnut"),
    *("Zephyr", "Canyon", "Dagger", "Feather", "Granite", "Indigo", "Jasper"),
)
PLATFORMS = ("PC", "PS2", "Wii", "Xbox", "DS", "PSP")
EDITION = "Gold Edition"


class MiniConfig(BaseModel):
    """Every constant of the generator. Shares are integer percent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    genres: int = Field(default=8, ge=2, le=len(GENRES))
    franchises_per_genre: int = Field(default=3, ge=1)
    instalments: int = Field(default=5, ge=1)
    platforms: int = Field(default=4, ge=1, le=len(PLATFORMS))
    editions: int = Field(default=96, ge=0)
    """Items that exist once more, as an edition."""
    listed_twice: int = Field(default=24, ge=0)
    """Items that exist once more, under the very same title."""

    users: int = Field(default=3000, ge=1)
    noise: Percent = Field(default=24, ge=0, le=100)
    duplicates: Percent = Field(default=15, ge=0, le=100)
    templates: int = Field(default=6, ge=1)
    valid_users: int = Field(default=360, ge=0)
    test_users: int = Field(default=400, ge=0)
    shortest: int = Field(default=2, ge=2)
    longest: int = Field(default=15, ge=2)

    sequel: Percent = Field(default=15, ge=0, le=100)
    """How often a clean user takes the next instalment instead of the successor."""
    wander: Percent = Field(default=8, ge=0, le=100)
    """How often a clean user goes to something popular instead."""
    edition: Percent = Field(default=10, ge=0, le=100)
    """How often the edition is taken where there is one."""
    several_targets: Percent = Field(default=25, ge=0, le=100)
    """Share of validation and test users with a second target."""

    push: Percent = Field(default=50, ge=0, le=100)
    crossed: Percent = Field(default=25, ge=0, le=100)
    """Kinds of noise users; the rest scatter."""
    pushed_items: int = Field(default=4, ge=1)
    steps_off: int = Field(default=3, ge=2)
    """How many steps along the rule a crossed target lies, where 1 would be right."""

    @model_validator(mode="after")
    def _fits(self) -> MiniConfig:
        if self.genres * self.franchises_per_genre > len(PREFIXES):
            raise ValueError(f"genres × franchises_per_genre must be at most {len(PREFIXES)}")
        if self.noise + self.duplicates > 100 or self.push + self.crossed > 100 or self.sequel + self.wander > 100:
            raise ValueError("noise + duplicates, push + crossed and sequel + wander must each be at most 100")
        if self.longest < self.shortest:
            raise ValueError("longest must be at least shortest")
        on_a_platform = self.genres * self.franchises_per_genre * self.instalments
        if on_a_platform < 2 * (self.longest + 4):
            raise ValueError("too few items on a platform for the longest history without repeats")
        if max(self.editions, self.listed_twice) > on_a_platform * self.platforms:
            raise ValueError("there are more editions or second listings than items to have them")
        if self.steps_off % self.genres == 1:
            raise ValueError("steps_off leads round the genres to the right one")
        return self


class Mini:
    """The embedded data set, generated on the spot in well under a second."""

    def __init__(self, config: MiniConfig | None = None, seed: int = 0):
        self.config = config or MiniConfig()
        self.seed = seed

    def load(self) -> RecDataset:
        return generate(self.config, self.seed)


def generate(config: MiniConfig, seed: int) -> RecDataset:
    """The data set of a configuration and a seed, byte for byte the same everywhere. It is named ``mini``."""
    draws = _Draws(seed)
    world = _world(config, draws)
    users = draws.shuffled(_train(config, world, draws))
    train, labels = [history for history, _ in users], [label for _, label in users]
    clean = [user for user, label in enumerate(labels) if label == "clean"]
    valid: list[list[int]] = [[] for _ in users]
    test: list[list[int]] = [[] for _ in users]
    for part, count in ((valid, config.valid_users), (test, config.test_users)):
        for user in draws.shuffled(clean)[:count]:
            past = train[user] + valid[user]
            for _ in range(2 if draws.percent(config.several_targets) else 1):
                part[user].append(world.next(past + part[user], draws))
    return RecDataset(
        "mini",
        world.titles,
        Sequences.from_rows(train),
        Sequences.from_rows(valid),
        Sequences.from_rows(test),
        labels=np.array(labels),
        source=f"generated, seed {seed}",
        meta={"config": config.model_dump_json(), "seed": str(seed), "item_noun": "game"},
    )


def _train(config: MiniConfig, world: _World, draws: _Draws) -> list[tuple[list[int], str]]:
    """One training history and label per user, the kinds one after another."""
    n_noise, n_copies = (config.users * share // 100 for share in (config.noise, config.duplicates))
    clean = [world.walk(_length(config, draws), draws) for _ in range(config.users - n_noise - n_copies)]
    templates = sorted(clean, key=len)[-len(clean) // 4 :][: config.templates]
    users = [(history, "clean") for history in clean]
    for _ in range(n_copies):
        template = draws.one_of(templates)
        users.append((template[draws.below(2) if len(template) > 2 else 0 :], "duplicate"))
    pushed = draws.shuffled(world.obscure())[: config.pushed_items]
    for number in range(n_noise):
        history = world.walk(_length(config, draws), draws)
        kind = 100 * number // n_noise
        if kind < config.push:
            history[-1] = draws.one_of([item for item in pushed if item not in history[:-1]] or pushed)
        elif kind < config.push + config.crossed:
            history[-1] = world.ahead(history[-2], config.steps_off)
        else:
            history = draws.shuffled(range(len(world.titles)))[: len(history)]
        users.append((history, "noise"))
    return users


def _length(config: MiniConfig, draws: _Draws) -> int:
    """Short histories are common: the weight of a length falls as its inverse."""
    lengths = range(config.shortest, config.longest + 1)
    return lengths[draws.weighted([10_000 // length for length in lengths])]


Place = tuple[int, int, int]
"""Franchise, instalment (from 0), platform."""


@dataclass(frozen=True)
class _World:
    """The items and the rule by which clean users walk through them."""

    config: MiniConfig
    titles: tuple[str, ...]
    places: tuple[Place, ...]
    """Of each item."""
    offers: dict[Place, tuple[int, int, int]]
    """Item numbers at a place: as first listed, listed again, edition; the first one again where there is no such."""
    successor: tuple[int, ...]
    """Of each franchise; franchises are numbered by popularity."""

    def walk(self, length: int, draws: _Draws) -> list[int]:
        """The history of a clean user who owns one platform."""
        past = [self.wander(draws.zipf(self.config.platforms), draws)]
        while len(past) < length:
            past.append(self.next(past, draws))
        return past

    def next(self, past: list[int], draws: _Draws) -> int:
        """Where a clean user goes from here; never to an item had before."""
        franchise, instalment, platform = self.places[past[-1]]
        roll = draws.below(100)
        if roll < self.config.wander:
            item = self.wander(platform, draws)
        elif roll < self.config.wander + self.config.sequel and instalment + 1 < self.config.instalments:
            item = self.offer((franchise, instalment + 1, platform), draws)
        else:
            item = self.offer((self.successor[franchise], instalment, platform), draws)
        while item in past:
            item = self.wander(platform, draws)
        return item

    def wander(self, platform: int, draws: _Draws) -> int:
        franchise, instalment = draws.zipf(len(self.successor)), draws.zipf(self.config.instalments)
        return self.offer((franchise, instalment, platform), draws)

    def offer(self, place: Place, draws: _Draws) -> int:
        first, again, edition = self.offers[place]
        return edition if draws.percent(self.config.edition) else (first, again)[draws.below(2)]

    def ahead(self, item: int, steps: int) -> int:
        """The item as many steps along the rule, at the same instalment and platform."""
        franchise, instalment, platform = self.places[item]
        for _ in range(steps):
            franchise = self.successor[franchise]
        return self.offers[franchise, instalment, platform][0]

    def obscure(self) -> list[int]:
        """Late instalments of the less popular half of the franchises."""
        rare = len(self.successor) // 2
        last = self.config.instalments - 1
        return [item for item, (franchise, part, _) in enumerate(self.places) if franchise >= rare and part == last]


def _world(config: MiniConfig, draws: _Draws) -> _World:
    words, prefixes = draws.shuffled(GENRES)[: config.genres], draws.shuffled(PREFIXES)
    n_franchises = config.genres * config.franchises_per_genre
    genres = draws.shuffled([franchise % config.genres for franchise in range(n_franchises)])
    members = [[f for f in range(n_franchises) if genres[f] == genre] for genre in range(config.genres)]
    successor = [0] * n_franchises
    for genre, franchises in enumerate(members):
        # Genres are numbered at random, so going through them in turn is as good a cycle as any.
        following = draws.shuffled(members[(genre + 1) % config.genres])
        for franchise, after in zip(franchises, following, strict=True):
            successor[franchise] = after
    sizes = (n_franchises, config.instalments, config.platforms)
    places = [(f, i, p) for f in range(sizes[0]) for i in range(sizes[1]) for p in range(sizes[2])]
    again = draws.shuffled(places)[: config.listed_twice]
    editions = draws.shuffled(places)[: config.editions]

    def title(place: Place, edition: str) -> str:
        franchise, instalment, platform = place
        number = f" {instalment + 1}" if instalment else ""
        return f"{prefixes[franchise]} {words[genres[franchise]]}{number}{edition} - {PLATFORMS[platform]}"

    listed = [(place, "") for place in places + again] + [(place, f" {EDITION}") for place in editions]
    order = draws.shuffled(range(len(listed)))  # so that an item's number tells nothing
    number_of = {old: new for new, old in enumerate(order)}
    offers = {place: (number_of[row],) * 3 for row, place in enumerate(places)}
    for row, (place, edition) in enumerate(listed[len(places) :], len(places)):
        first, second, special = offers[place]
        offers[place] = (first, second, number_of[row]) if edition else (first, number_of[row], special)
    return _World(
        config,
        tuple(title(*listed[old]) for old in order),
        tuple(listed[old][0] for old in order),
        offers,
        tuple(successor),
    )


class _Draws:
    """Random integers from the raw stream of PCG64: NumPy promises that stream, but not what Generator makes of it."""

    def __init__(self, seed: int):
        self._stream = np.random.PCG64(seed)
        self._block: list[int] = []

    def below(self, bound: int) -> int:
        """0 … bound - 1; the bias of the remainder is below bound / 2⁶⁴."""
        if not self._block:
            self._block = self._stream.random_raw(4096).tolist()
        return self._block.pop() % bound

    def percent(self, share: Percent) -> bool:
        return self.below(100) < share

    def one_of(self, values: Sequence[T]) -> T:
        return values[self.below(len(values))]

    def weighted(self, weights: Sequence[int]) -> int:
        """A position, with probability proportional to its weight."""
        edges = list(accumulate(weights))
        return bisect_right(edges, self.below(edges[-1]))

    def zipf(self, n: int) -> int:
        """A position among n, its weight the inverse of its rank."""
        return self.weighted([10_000 // (rank + 1) for rank in range(n)])

    def shuffled(self, values: Iterable[T]) -> list[T]:
        """Fisher-Yates."""
        mixed = list(values)
        for last in range(len(mixed) - 1, 0, -1):
            other = self.below(last + 1)
            mixed[last], mixed[other] = mixed[other], mixed[last]
        return mixed
