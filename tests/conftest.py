"""How hard the tests of crashes, damage, company and size try, and the run that most of them start from."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from crashes import Undisturbed, quick_run


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("crashes, company and size")
    group.addoption("--kills", type=int, default=3, help="kills per test; 30 or more try the real backbones, too")
    group.addoption("--luck", type=int, default=0, help="seed of what is killed or damaged, and when")
    group.addoption(
        "--rows", type=int, default=1_000_000, help="interactions to import in a stream; 50000000 is promised"
    )
    group.addoption("--company", type=int, default=4, help="processes at once; 5 or more try the real backbones, too")


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--kills")


@pytest.fixture
def company(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--company")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    luck = request.config.getoption("--luck")
    print(f"--luck {luck}")  # shown where the test fails
    return np.random.default_rng(luck)


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A finished run to compare with, what it ran on, and how long it took."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs a fork server and /proc")
    return quick_run(tmp_path_factory.mktemp("quick"))
