"""The bundled checkpoint's codec: what the model sees is a matrix, one row per trial, no text and no token at all.

The prompt is float32 ``[trials + candidates + 1, width]`` in the place of a plain Llama's embeddings:

- one row per trial, in order of evaluation: its code, its score, and what the surrogate expected of it without it;
- one row per candidate of the pool: its code, what the surrogate expects of it now, and an alias;
- a last row that asks for the pick.

The answer is one token, the alias of a candidate. Behind a candidate's row the model also predicts that candidate's
score, as a distribution over ``SCORES`` bins. Rows are linear in what they show. Real numbers enter as themselves and
as ``BUMPS`` Gaussian bumps. The small table that does it lies beside the Llama, in ``codec/rows.safetensors``.

Rows of earlier trials stay, and with them the prefix cache holds, up to the next refit of the surrogate (``REFITS``, 17
in 200 trials). Beyond 200 trials, of which the best and the latest are shown, every question is computed whole.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmsearcher_local.candidates.history import HISTORY_CAP, History
from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.errors import CheckpointError, PromptError
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.system.blas import one_thread

ALIASES, SCORES = 128, 64  # the model's tokens: first the aliases, then the score bins
SLOTS, BASE, SETS = 64, 16, 32  # digits of a code, options that a digit tells apart, sets of positions alike
CODE = 64  # dimensions of a code before it becomes a part of a row
LIMIT = 3.5  # numbers are brought into [-LIMIT, LIMIT]; scores are shown in there
BUMPS = 15
TRIAL, CANDIDATE = 4, 4  # numbers that are shown of each

Table = Mapping[str, Any]  # of numpy arrays, or of torch tensors in training


def table_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """The tensors of the table for rows of that width."""
    return {
        "options": (SLOTS * BASE, CODE),  # a vector for each option of each slot
        "order": (SLOTS, CODE),  # the direction in which a slot's numbers grow
        "shared": (SETS * BASE, CODE),  # a vector for each option of a set of positions that offer the same ones
        "code": (CODE, width),
        "trial": (1 + TRIAL * (1 + BUMPS), width),
        "candidate": (1 + CANDIDATE * (1 + BUMPS), width),
        "aliases": (ALIASES, width),
        "pick": (1, width),
    }


class Layout(NamedTuple):
    """Where a space's options stand in a code vector; each array is of shape ``[slots]``.

    A position takes one slot, or where it has more than 16 options one for each of its base-16 digits.
    """

    positions: np.ndarray
    divisors: np.ndarray
    slots: np.ndarray
    steps: np.ndarray  # 2 / (options - 1) in the first slot of a position whose options are numbers in order, else 0
    sets: np.ndarray  # which set of positions that share their options it belongs to, or -1


class CodeFeatures(NamedTuple):
    """Which vectors make each code, all of shape ``[..., slots]``; those of ``shared`` count where ``alike`` is 1."""

    options: Any
    places: Any
    slots: Any
    shared: Any
    alike: Any


class CompactCodec:
    """Codec of the bundled checkpoint; stateless, so equal questions give equal rows.

    ``table`` holds float32 arrays of ``table_shapes``.
    """

    max_pool = ALIASES
    group = 16
    score_tokens: Sequence[int] = range(ALIASES, ALIASES + SCORES)
    score_centres = np.linspace(-LIMIT, LIMIT, SCORES)

    def __init__(self, table: Mapping[str, np.ndarray]) -> None:
        self.table = table

    @one_thread()
    def prompt(self, space: SearchSpace, history: History, pool: Pool) -> np.ndarray:
        """The rows of history and pool, float32 ``[positions, width]``."""
        if len(pool) > ALIASES:
            raise PromptError(f"a pool of {len(pool)} candidates is too large for one prompt; at most {ALIASES} fit")
        candidates = self._candidates(pool) + self.table["aliases"][: len(pool)]
        return np.concatenate([self._trials(pool), candidates, self.table["pick"]])

    @one_thread()
    def score_prompts(self, pool: Pool) -> list[np.ndarray]:
        """For each candidate the rows behind which ``score_tokens`` are its score: the history's and its own."""
        trials, candidates = self._trials(pool), self._candidates(pool) + self.table["aliases"][0]
        return [np.concatenate([trials, row[None]]) for row in candidates]

    def answers(self, space: SearchSpace, codes: Sequence[str]) -> list[list[int]]:
        """The alias of each candidate."""
        return [[k] for k in range(len(codes))]

    def longest_prompt(self, space: SearchSpace, pool_size: int) -> int:
        """Positions of the longest question in a space, answer included; a ``PromptError`` where it is too wide."""
        lay_out(space)
        return HISTORY_CAP + min(pool_size, ALIASES) + 2

    def _trials(self, pool: Pool) -> np.ndarray:
        surrogate = pool.surrogate
        if not len(surrogate.history):
            return np.empty((0, self.table["pick"].shape[1]), dtype=np.float32)
        codes = [surrogate.history.codes[i] for i in surrogate.kept]
        numbers = trial_numbers(*surrogate.hindsight)
        return code_rows(self.table, features_of(surrogate.space, codes)) + numbers @ self.table["trial"]

    def _candidates(self, pool: Pool) -> np.ndarray:
        numbers = candidate_numbers(pool.means, pool.deviations, pool.improvements, pool.surrogate.best)
        return code_rows(self.table, features_of(pool.surrogate.space, pool.codes)) + numbers @ self.table["candidate"]


def load_codec(file: Path, width: int) -> CompactCodec:
    """The codec whose table is in that file, for a model that is ``width`` wide; other files are refused."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not file.is_file():
        raise CheckpointError(f"{file} is missing: another version of this package trained the model; train it anew")
    try:
        table = load_file(file)
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(f"{file} is damaged or incomplete: {error}") from error
    if {name: array.shape for name, array in table.items()} != table_shapes(width):
        raise CheckpointError(f"{file} is not the table of a model of width {width}; train it anew")
    if not all(array.dtype == np.float32 and np.isfinite(array).all() for array in table.values()):
        raise CheckpointError(f"{file} holds something else than finite numbers in float32")
    return CompactCodec(table)


def lay_out(space: SearchSpace) -> Layout:
    """The layout of a space, its slots numbered in order of position; a ``PromptError`` where the table has too few."""
    widths = [len(f"{size - 1:x}") for size in space.sizes]  # digits to the base of 16
    digits = [(i, BASE**power) for i, width in enumerate(widths) for power in reversed(range(width))]
    if len(digits) > SLOTS:
        raise PromptError(f"this space takes {len(digits)} code digits; the bundled checkpoint reads at most {SLOTS}")
    positions, divisors = np.array(digits).T
    first = np.append(True, np.diff(positions) > 0)
    ordered = np.array(space.ordered)[positions] & first
    sizes = np.array(space.sizes)[positions]
    sets = np.full(len(digits), -1)
    numbers: dict[tuple[int, int], int] = {}
    for k, (position, divisor) in enumerate(digits):
        if (alike := space.alike[position]) >= 0:
            sets[k] = numbers.setdefault((alike, divisor), len(numbers))
    return Layout(positions, divisors, np.arange(len(digits)), np.where(ordered, 2 / np.maximum(sizes - 1, 1), 0), sets)


def features_of(space: SearchSpace, codes: Sequence[str]) -> CodeFeatures:
    """Which vectors make each code of a space."""
    return code_features(lay_out(space), space.array(codes))


def code_features(layout: Layout, indices: np.ndarray) -> CodeFeatures:
    """Which vectors make each code, from option indices ``[codes, positions]``."""
    at = indices[:, layout.positions]
    digits = at // layout.divisors % BASE
    alike = layout.sets >= 0
    return CodeFeatures(
        options=layout.slots * BASE + digits,
        places=(at * layout.steps - (layout.steps > 0)).astype(np.float32),
        slots=np.broadcast_to(layout.slots, digits.shape),
        shared=np.where(alike, layout.sets * BASE + digits, 0),
        alike=np.broadcast_to(alike.astype(np.float32), digits.shape),
    )


def code_rows(table: Table, codes: CodeFeatures) -> Any:
    """The part of a row that says its code, ``[..., width]``: a linear map of the sum of its options' vectors.

    Over ``S`` slots the sum is divided by ``sqrt(S)``: two codes are as much alike as they have options in common.
    """
    vectors = table["options"][codes.options] + codes.places[..., None] * table["order"][codes.slots]
    vectors = vectors + codes.alike[..., None] * table["shared"][codes.shared]
    return vectors.sum(-2) * codes.options.shape[-1] ** -0.5 @ table["code"]


def trial_numbers(scores: np.ndarray, means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """What a trial shows besides its code, float32 ``[trials, features]``.

    Its score, the mean and log deviation that the surrogate expected without it, and by how many deviations it was
    wrong.
    """
    return expand(scores, means, _log_deviation(deviations), (scores - means) / deviations)


def candidate_numbers(means: np.ndarray, deviations: np.ndarray, improvements: np.ndarray, best: float) -> np.ndarray:
    """What a candidate shows besides its code, float32 ``[candidates, features]``.

    Mean, log deviation, by how many deviations the mean is from the best score, and the log of the expected
    improvement.
    """
    short = 0.7 * ((means - best) / deviations + 2)
    return expand(means, _log_deviation(deviations), short, (np.log(improvements + 1e-9) + 6) / 2.5)


def expand(*columns: np.ndarray) -> np.ndarray:
    """1, then each number within the limits and its bumps ``exp(-((x - c) / w)^2 / 2)``, ``w`` apart: float32."""
    centres = np.linspace(-LIMIT, LIMIT, BUMPS)
    clipped = np.clip(np.stack(columns, -1), -LIMIT, LIMIT)[..., None]
    bumps = np.exp(-(((clipped - centres) / (centres[1] - centres[0])) ** 2) / 2)
    features = np.concatenate([clipped / LIMIT, bumps], -1).reshape(len(clipped), len(columns) * (1 + BUMPS))
    return np.concatenate([np.ones((len(features), 1)), features], 1).astype(np.float32)


def _log_deviation(deviations: np.ndarray) -> np.ndarray:
    return 1.75 * (np.log(deviations) + 1.2)
