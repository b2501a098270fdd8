"""LMSearcherSampler: Optuna's own contract tests, what it proposes and never proposes, workers, the real model."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)
from optuna.trial import TrialState, create_trial
from scripted import scripted_ranker

from lmsearcher_local.errors import PromptError, SpaceExhausted, StudyError
from lmsearcher_local.load import load_ranker
from lmsearcher_local.optuna import BINS, LISTED, Group, LMSearcherSampler, distributions, drawn, encoded, options
from lmsearcher_local.searcher import Searcher
from lmsearcher_local.space import SearchSpace
from lmsearcher_local.tables import table

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = SearchSpace({"a": ["x", "y", "z"], "b": [1, 2, 4, 8], "c": [True, False], "d": [0.1, 0.2, None]})


class Contract:
    """The sampler that Optuna's tests are run on.

    Two of their kinds do not apply. ``MultiObjectiveSamplerTestCase``: one ranking has one objective; that several are
    refused is ``SingleOnlySamplerTestCase``. All of them for a sampler with a fixed space: they suggest parameters of
    their own, which such a sampler refuses on purpose (below).
    """

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: LMSearcherSampler(scripted_ranker())


class TestBasic(Contract, BasicSamplerTestCase):
    pass


class TestRelative(Contract, RelativeSamplerTestCase):
    pass


class TestSingleOnly(Contract, SingleOnlySamplerTestCase):
    pass
