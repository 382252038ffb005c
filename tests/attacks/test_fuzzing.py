"""Ten thousand mutated configurations: each loads, or is refused in words of the settings, and nothing else."""

from __future__ import annotations

import copy
import random
import time
from collections import Counter
from typing import Any

import pytest
from commands import REPOSITORY

from openset_distill.config.experiment import load
from openset_distill.config.loading import read_configuration
from openset_distill.core.errors import OpenSetError

pytestmark = pytest.mark.attacks
MUTATIONS, SECONDS = 10_000, 120
CONFIGURATIONS = (
    "config.yaml",
    "experiments/tinyimagenet.yaml",
    "experiments/ood_detection.yaml",
    "experiments/cub.yaml",
)
NUMBERS = (
    0,
    -1,
    1,
    2,
    10**6,
    10**12,
    10**30,
    -(10**30),
    0.5,
    -0.5,
    1e-300,
    1e300,
    float("inf"),
    float("-inf"),
    float("nan"),
)
WORDS = (
    "", " ", "null", "none", "yes", "a/b", "..", "{seed}", "{}", "$a$", "a\x00b", "a\nb", "\udce9", "\u202eab", "日本",
    "x" * 300, "-rf", "=1+1", "c++", "features.csv", "0", "1e5", "cutmix", "teacher", "ce", "resnet18", "cross_entropy",
    "maximum_logit", "mnist", "random", "custom", "digits", "all", "unknown",
)  # fmt: skip
OTHERS = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [{}],
    [None],
    {"name": None},
    {"name": []},
    {"name": "x", "preset": {}},
    {1: 2},
    b"a",
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all parts of plain data."""
    found = [path] if path else []
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        found += places(part, (*path, key))
    return found


def mutated(configuration: dict, draws: random.Random) -> dict:
    """A copy with one to three changes: a value, a key, an entry too many or too few."""
    changed = copy.deepcopy(configuration)
    for _ in range(draws.choice((1, 1, 1, 2, 3))):
        there = places(changed)
        if not there:
            break
        path = draws.choice(there)
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        last, kind = path[-1], draws.randrange(8)
        if kind < 5:
            holder[last] = copy.deepcopy(draws.choice(draws.choice((NUMBERS, WORDS, OTHERS))))
        elif kind == 5:
            del holder[last]
        elif isinstance(holder, dict):
            word = draws.choice(WORDS)
            holder[str(last)[:-1] + word if kind == 6 else word] = holder[last]
        else:
            holder.extend([holder[last]] * draws.choice((1, 3)))
    return changed


@pytest.mark.usefixtures("in_repository")
def test_ten_thousand_mutations(record_property):
    draws, ends, begun = random.Random(12), Counter(), time.process_time()
    originals = [read_configuration(REPOSITORY / "config" / name) for name in CONFIGURATIONS]
    for number in range(MUTATIONS):
        configuration = mutated(draws.choice(originals), draws)
        start = time.monotonic()
        try:
            load(configuration, stands_alone=True).resolved()
            ends["accepted"] += 1
        except OpenSetError as error:
            message = str(error)
            assert message and "Traceback" not in message and len(message) < 20_000, (number, message[:500])
            ends["refused"] += 1
        except Exception as error:
            pytest.fail(f"mutation {number}: {type(error).__name__}: {error}\n{configuration!r}"[:3000])
        assert time.monotonic() - start < 5, f"mutation {number} took {time.monotonic() - start:.1f} s"
    record_property("fuzzed", dict(ends))
    assert ends["refused"] > MUTATIONS / 3 and ends["accepted"] > MUTATIONS / 20, ends
    assert time.process_time() - begun < SECONDS, f"{time.process_time() - begun:.0f} s of a core"
