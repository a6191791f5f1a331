"""mini: the same everywhere, with the structure and the plants that its description promises."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from prunebench.datasets.inspect import inspect
from prunebench.datasets.schema import RecDataset
from prunebench.datasets.synthetic import Mini, MiniConfig, generate

CONFIG = MiniConfig()
TITLE = re.compile(r"(?P<prefix>\w+) (?P<genre>\w+)(?: (?P<part>\d))?(?P<edition> Gold Edition)? - (?P<platform>\w+)")


@pytest.fixture(scope="module")
def mini() -> RecDataset:
    return Mini().load()


@pytest.fixture(scope="module")
def parts(mini) -> list[tuple[str, str, int, str]]:
    """Franchise, genre, instalment and platform of each item, read off its title."""
    found = [TITLE.fullmatch(title) for title in mini.titles]
    return [(m["prefix"], m["genre"], int(m["part"] or 1), m["platform"]) for m in found]


def test_the_same_on_every_machine(mini):
    assert mini.fingerprint == "a8943b3dafc8ea44"
    assert generate(CONFIG, 0).fingerprint == mini.fingerprint


def test_seed_and_configuration_matter(mini):
    assert generate(CONFIG, 1).fingerprint != mini.fingerprint
    assert generate(MiniConfig(sequel=CONFIG.sequel + 1), 0).fingerprint != mini.fingerprint


def test_the_config_round_trips_and_refuses_nonsense():
    assert MiniConfig.model_validate_json(Mini().load().meta["config"]) == CONFIG
    for wrong in (
        {"noise": 101},
        {"noise": 90, "duplicates": 20},
        {"longest": 1},
        {"steps_off": 9},
        {"editions": 481},
        {"genres": 10, "franchises_per_genre": 9},
    ):
        with pytest.raises(ValidationError):
            MiniConfig(**wrong)
    with pytest.raises(ValidationError, match="extra"):
        MiniConfig(nois=3)


def test_sizes(mini):
    report = inspect(mini)
    places = CONFIG.genres * CONFIG.franchises_per_genre * CONFIG.instalments * CONFIG.platforms
    assert report["items"] == places + CONFIG.editions + CONFIG.listed_twice
    assert report["titles"]["distinct"] == places + CONFIG.editions
    assert report["titles"]["items_sharing_a_title"] == 2 * CONFIG.listed_twice
    assert report["users"] == report["samples"] == CONFIG.users
    assert report["splits"]["valid"]["users_with_target"] == CONFIG.valid_users
    assert report["splits"]["test"]["users_with_target"] == CONFIG.test_users
    assert report["labels"] == {
        "clean": CONFIG.users * (100 - CONFIG.noise - CONFIG.duplicates) // 100,
        "duplicate": CONFIG.users * CONFIG.duplicates // 100,
        "noise": CONFIG.users * CONFIG.noise // 100,
    }
    assert CONFIG.shortest <= report["sequence_length"]["train"]["p0"]
    assert report["sequence_length"]["train"]["p100"] <= CONFIG.longest
    assert report["popularity"]["gini"] > 0.4
    assert set(report["leaks"].values()) == {0}
    assert report["repeats"]["interactions"] == 0


def test_targets_are_of_clean_users_only(mini):
    for split in ("valid", "test"):
        assert set(mini.labels[mini.queries(split).users]) == {"clean"}


def test_numbers_of_items_and_users_carry_nothing(mini, parts):
    order = np.arange(mini.n_items)
    for value in (mini.popularity, np.array([part for _, _, part, _ in parts])):
        assert abs(np.corrcoef(order, value)[0, 1]) < 4 / np.sqrt(mini.n_items)
    assert abs(np.corrcoef(np.arange(mini.n_users), mini.labels == "noise")[0, 1]) < 4 / np.sqrt(mini.n_users)


def test_clean_users_follow_one_rule_within_one_platform(mini, parts):
    successors: dict[str, Counter[str]] = {}
    kinds: Counter[str] = Counter()
    samples = mini.samples()
    clean = samples.take(samples.ids[mini.labels[samples.ids] == "clean"])
    for row in clean.sequences:
        for one, other in pairwise(row.tolist()):
            (prefix, genre, part, platform), (prefix2, genre2, part2, platform2) = parts[one], parts[other]
            assert platform == platform2
            if prefix == prefix2 and part2 == part + 1:
                kinds["sequel"] += 1
            elif part == part2 and genre != genre2:
                kinds["jump"] += 1
                successors.setdefault(prefix, Counter())[prefix2] += 1
            else:
                kinds["other"] += 1
    rule = {prefix: after.most_common(1)[0] for prefix, after in successors.items()}
    assert len(rule) == len({after for after, _ in rule.values()}) == CONFIG.genres * CONFIG.franchises_per_genre
    total = kinds.total()
    assert sum(count for _, count in rule.values()) / total > 0.6
    assert 0.05 < kinds["sequel"] / total < 0.25
    genre_of = {prefix: genre for prefix, genre, _, _ in parts}
    following = {(genre_of[prefix], genre_of[after]) for prefix, (after, _) in rule.items()}
    assert len(following) == CONFIG.genres, "every franchise of a genre leads into the same next genre"


def test_noise_targets_break_the_rule(mini, parts):
    samples = mini.samples()
    labels = mini.labels[samples.ids]
    last = np.array([row[-1] for row in samples.histories])
    platform = np.array([parts[item][3] for item in range(mini.n_items)])
    stays = platform[last] == platform[samples.targets]
    assert stays[labels == "clean"].all()
    assert 0.2 < stays[labels == "noise"].mean() < 0.9
    pushed = Counter(samples.targets[labels == "noise"].tolist()).most_common(CONFIG.pushed_items)
    assert sum(count for _, count in pushed) >= CONFIG.users * CONFIG.noise * CONFIG.push // 10_000


def test_duplicates_copy_few_templates(mini):
    copies = {tuple(mini.train[user].tolist()) for user in np.flatnonzero(mini.labels == "duplicate")}
    assert len(copies) <= 2 * CONFIG.templates
    clean = {tuple(mini.train[user].tolist()) for user in np.flatnonzero(mini.labels == "clean")}
    assert all(any(copy in (whole, whole[1:]) for whole in clean) for copy in copies)


def test_small_worlds_work():
    sizes = {"genres": 3, "franchises_per_genre": 2, "users": 40, "longest": 6, "valid_users": 5, "test_users": 5}
    tiny = MiniConfig(**sizes, editions=0)
    assert inspect(generate(tiny, 3))["samples"] == 40
    assert inspect(generate(tiny.model_copy(update={"noise": 0, "duplicates": 0}), 3))["labels"] == {"clean": 40}
