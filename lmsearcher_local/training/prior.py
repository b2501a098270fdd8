"""The prior: synthetic design spaces and objectives, drawn at random; no real table is ever part of it."""

from collections.abc import Callable, Sequence

import numpy as np

from lmsearcher_local.spaces.space import Option, SearchSpace

Rng = np.random.Generator
Objective = Callable[[np.ndarray], np.ndarray]  # option indices [N, positions] -> values [N], higher is better

MAX_OPTIONS = 16


def draw_sizes(rng: Rng, positions: int, minimum: float) -> np.ndarray:
    """Option counts of a space of ``positions`` positions with at least ``minimum`` codes (if options allow it)."""
    for attempt in range(50):
        top = min(MAX_OPTIONS, 3 + attempt + int(rng.choice([0, 2, 4, 9])))
        alike = rng.random() < 0.4
        sizes = np.full(positions, rng.integers(2, top + 1)) if alike else rng.integers(2, top + 1, positions)
        if np.log(sizes).sum() >= np.log(minimum):
            return sizes
    return np.full(positions, MAX_OPTIONS)


def draw_space(rng: Rng, sizes: np.ndarray, ordinal: np.ndarray) -> SearchSpace:
    """A space of these option counts whose ordinal positions offer numbers; now and then a space does not say so."""
    said = ordinal if rng.random() < 0.85 else rng.random(len(sizes)) < 0.5
    options: dict[bool, list[Option]] = {True: [*range(MAX_OPTIONS)], False: [*"abcdefghijklmnop"]}
    return SearchSpace({f"p{i}": options[bool(o)][:n] for i, (n, o) in enumerate(zip(sizes, said, strict=True))})


def draw_objective(rng: Rng, sizes: np.ndarray, ordinal: np.ndarray) -> Objective:
    """An objective over a space: one or two families added up, then perhaps a ceiling, failures and noise."""
    count = 1 if rng.random() < 0.7 else 2
    weights = rng.dirichlet(np.ones(count))
    parts = [_FAMILIES[rng.choice(len(_FAMILIES), p=_SHARES)](rng, sizes, ordinal) for _ in range(count)]
    probe = rng.integers(0, sizes, size=(256, len(sizes)))
    scaled = [_standardise(part, probe) for part in parts]
    values = sum(w * part(probe) for w, part in zip(weights, scaled, strict=True))
    spread = float(np.std(values)) + 1e-9
    ceiling = float(np.quantile(values, rng.uniform(0.5, 0.99))) if rng.random() < 0.45 else np.inf
    fails = _failures(rng, sizes) if rng.random() < 0.12 else None
    floor = float(np.min(values)) - spread * rng.uniform(0, 1)
    noise = spread * float(np.exp(rng.uniform(np.log(0.01), np.log(0.3)))) if rng.random() < 0.4 else 0.0

    def objective(codes: np.ndarray) -> np.ndarray:
        value = np.asarray(sum(w * part(codes) for w, part in zip(weights, scaled, strict=True)))
        if np.isfinite(ceiling):
            soft = 0.2 * spread
            value = ceiling - soft * np.logaddexp(0.0, (ceiling - value) / soft)
        if fails is not None:
            value = np.where(fails(codes), floor, value)
        return value + noise * rng.standard_normal(len(codes)) if noise else value

    return objective


def draw_ordinal(rng: Rng, positions: int) -> np.ndarray:
    """Which positions have an order, bool ``[positions]``."""
    style = rng.random()
    if style < 0.4:
        return np.ones(positions, dtype=bool)
    return rng.random(positions) < (0.0 if style < 0.65 else rng.random())


def _shape(rng: Rng, n: int, ordinal: bool) -> np.ndarray:
    """The effect of the ``n`` options of one position, mean 0, largest deviation about 1."""
    t = np.linspace(-1, 1, n)
    kind = rng.random()
    if ordinal:
        if kind < 0.2:
            effect = t * rng.choice([-1, 1])
        elif kind < 0.5:
            effect = -(np.abs(t - rng.uniform(-1, 1)) ** rng.uniform(1, 2.5))
        elif kind < 0.7:
            effect = np.tanh((t - rng.uniform(-1, 1)) * rng.uniform(1, 8)) * rng.choice([-1, 1])
        elif kind < 0.8:
            effect = np.exp(rng.choice([-1, 1]) * t * rng.uniform(1, 3)) * rng.choice([-1, 1])
        else:
            waves = np.arange(1, 4)
            effect = np.cos(np.outer(t, waves) * 1.5 + rng.uniform(0, 6.3, 3)) @ (rng.standard_normal(3) / waves)
    elif kind < 0.6:
        effect = rng.standard_normal(n)
    elif kind < 0.8:
        effect = rng.standard_t(2, n).clip(-6, 6)
    else:
        effect = 0.2 * rng.standard_normal(n)
        effect[rng.integers(n)] += rng.choice([-2, 2], p=[0.7, 0.3])
    effect = effect - effect.mean()
    return effect / (np.abs(effect).max() + 1e-9)


def _scales(rng: Rng, positions: int) -> np.ndarray:
    """How much each position matters: heavy-tailed, some not at all."""
    scales = np.exp(rng.standard_normal(positions) * rng.uniform(0.5, 2.5))
    scales *= rng.random(positions) < rng.uniform(0.4, 1.2)
    if positions > 8 and rng.random() < 0.4:  # neighbouring layers of a network matter alike
        waves = np.cos(np.linspace(0, rng.uniform(1, 6), positions) + rng.uniform(0, 6.3))
        scales = np.exp(waves * rng.uniform(0.3, 1.5))
    scales[rng.integers(positions)] += 0.3
    return scales


def _main_effects(rng: Rng, sizes: np.ndarray, ordinal: np.ndarray) -> list[np.ndarray]:
    """One effect per position; where all positions offer the same options, often partly shared between them."""
    effects = [_shape(rng, n, o) for n, o in zip(sizes, ordinal, strict=True)]
    if len(set(sizes)) == 1 and rng.random() < 0.5:
        shared, own = _shape(rng, sizes[0], ordinal[0]), rng.uniform(0, 0.8)
        effects = [shared * (1 - own) + effect * own for effect in effects]
    return [effect * scale for effect, scale in zip(effects, _scales(rng, len(sizes)), strict=True)]


def _look_up(effects: Sequence[np.ndarray], codes: np.ndarray) -> np.ndarray:
    return np.stack([effect[codes[:, i]] for i, effect in enumerate(effects)], axis=1)


def _interactions(rng: Rng, sizes: np.ndarray, ordinal: np.ndarray) -> Objective:
    """Main effects plus sparse pairs and triples."""
    effects = _main_effects(rng, sizes, ordinal)
    main_weight = 1.0 if rng.random() < 0.8 else rng.uniform(0, 1)
    tables = []
    strength = np.exp(rng.uniform(-2.5, 0.7))
    for _ in range(rng.poisson(rng.choice([0.0, 1.5, 3, len(sizes)]))):
        order = min(len(sizes), 2 if rng.random() < 0.75 else 3)
        chosen = rng.choice(len(sizes), order, replace=False)
        shape = tuple(int(n) for n in sizes[chosen])
        if ordinal[chosen].any() and rng.random() < 0.8:
            table = np.zeros(shape)
            for _ in range(2):
                factor = np.ones(())
                for i in chosen:
                    factor = np.multiply.outer(factor, _shape(rng, sizes[i], ordinal[i]))
                table += factor
        else:
            table = rng.standard_normal(shape) * (rng.random(shape) < rng.uniform(0.2, 1.5))
        tables.append((chosen, table * strength * rng.exponential()))

    def objective(codes: np.ndarray) -> np.ndarray:
        value = main_weight * _look_up(effects, codes).sum(1)
        for chosen, table in tables:
            value = value + table[tuple(codes[:, i] for i in chosen)]
        return value

    return objective


def _bottleneck(rng: Rng, sizes: np.ndarray, ordinal: np.ndarray) -> Objective:
    """Effects that multiply, or the weakest or strongest position decides."""
    effects = _main_effects(rng, sizes, ordinal)
    kind, sharpness, offset = rng.integers(3), rng.uniform(1, 6), rng.uniform(0, 1)
    if kind == 0:
        return lambda codes: np.prod(np.maximum(0, offset + 1 + _look_up(effects, codes)).clip(0, 4), axis=1) ** 0.5
    sign = 1 if kind == 1 else -1
    return lambda codes: sign * np.log(np.exp(sign * sharpness * _look_up(effects, codes).clip(-5, 5)).sum(1))


def _graph(rng: Rng, sizes: np.ndarray, ordinal: np.ndarray) -> Objective:
    """Positions are edges of a small directed graph; options differ in quality, some cut the edge."""
    nodes = next(k for k in range(2, 14) if k * (k - 1) // 2 >= len(sizes))
    every = [(a, b) for b in range(1, nodes) for a in range(b)]
    edges = [every[i] for i in sorted(rng.choice(len(every), len(sizes), replace=False))]
    edges[0], edges[-1] = (0, edges[0][1]), (edges[-1][0], nodes - 1)
    shared = rng.exponential(1.0, MAX_OPTIONS) * (rng.random(MAX_OPTIONS) < 0.75)
    own = rng.uniform(0, 0.4)
    gains = [np.abs(shared[:n] * (1 + own * rng.standard_normal(n))) for n in sizes]
    for gain in gains:
        gain[rng.permutation(len(gain))[:1] if own > 0.3 else 0] = 0.0
    power, depth_bonus = rng.uniform(0.3, 1.0), rng.uniform(0.3, 1.2)
    effects = [0.3 * effect for effect in _main_effects(rng, sizes, ordinal)] if rng.random() < 0.5 else None

    def objective(codes: np.ndarray) -> np.ndarray:
        signal = np.zeros((len(codes), nodes))
        signal[:, 0] = 1.0
        for i in sorted(range(len(edges)), key=lambda i: edges[i][1]):
            a, b = edges[i]
            signal[:, b] += (signal[:, a] * gains[i][codes[:, i]] * depth_bonus) ** power
        value = np.log(signal[:, -1] + 0.03)
        return value + _look_up(effects, codes).sum(1) * (signal[:, -1] > 0) if effects else value

    return objective


def _features(rng: Rng, sizes: np.ndarray, ordinal: np.ndarray) -> list[np.ndarray]:
    """Two features of each option, ``[options, 2]`` for each position, larger where the position matters."""
    return [
        np.stack([_shape(rng, n, o) for _ in range(2)], axis=1) * scale
        for n, o, scale in zip(sizes, ordinal, _scales(rng, len(sizes)), strict=True)
    ]


def _network(rng: Rng, sizes: np.ndarray, ordinal: np.ndarray) -> Objective:
    """A random neural network over option features."""
    features = _features(rng, sizes, ordinal)
    hidden = 24
    first = rng.standard_normal((2 * len(sizes), hidden)) * rng.uniform(0.5, 2.5) / np.sqrt(len(sizes))
    bias, second = rng.standard_normal(hidden), rng.standard_normal((hidden, hidden)) / np.sqrt(hidden)
    third = rng.standard_normal(hidden) / np.sqrt(hidden)
    deep = rng.random() < 0.5

    def objective(codes: np.ndarray) -> np.ndarray:
        x = np.concatenate([feature[codes[:, i]] for i, feature in enumerate(features)], axis=1)
        h = np.tanh(x @ first + bias)
        return (np.tanh(2 * h @ second) if deep else h) @ third

    return objective


def _trees(rng: Rng, sizes: np.ndarray, ordinal: np.ndarray) -> Objective:
    """A sum of small oblivious decision trees over few positions each."""
    relevance = _scales(rng, len(sizes)) + 1e-3
    trees = []
    for _ in range(rng.integers(3, 25)):
        count = min(len(sizes), int(rng.integers(1, 4)))
        chosen = rng.choice(len(sizes), count, replace=False, p=relevance / relevance.sum())
        sides = []
        for i in chosen:
            side = rng.random(sizes[i]) < 0.5
            if ordinal[i]:
                side = np.arange(sizes[i]) < rng.integers(1, sizes[i])
            sides.append(side)
        trees.append((chosen, sides, rng.standard_normal((2,) * len(chosen)) * rng.exponential()))

    def objective(codes: np.ndarray) -> np.ndarray:
        value = np.zeros(len(codes))
        for chosen, sides, leaves in trees:
            value += leaves[tuple(side[codes[:, i]].astype(int) for i, side in zip(chosen, sides, strict=True))]
        return value

    return objective


def _hills(rng: Rng, sizes: np.ndarray, ordinal: np.ndarray) -> Objective:
    """A few hills and valleys around codes at random, narrow where a position matters."""
    features = _features(rng, sizes, ordinal)
    centres = rng.integers(0, sizes, size=(int(rng.integers(3, 40)), len(sizes)))
    heights = rng.standard_normal(len(centres)) * rng.exponential(1.0, len(centres))
    narrow = np.exp(rng.uniform(-1.5, 1.5)) / len(sizes) ** 0.5

    def objective(codes: np.ndarray) -> np.ndarray:
        apart = np.zeros((len(codes), len(centres)))
        for i, feature in enumerate(features):
            apart += ((feature[codes[:, i]][:, None] - feature[centres[:, i]]) ** 2).sum(2)
        return np.exp(-narrow * apart) @ heights

    return objective


def _valley(rng: Rng, sizes: np.ndarray, ordinal: np.ndarray) -> Objective:
    """The logarithm of a loss: a valley that lies askew, its bottom all of one height, and perhaps a cliff."""
    places = [np.linspace(-1, 1, n) if o else 0.6 * rng.standard_normal(n) for n, o in zip(sizes, ordinal, strict=True)]
    count = len(sizes)
    mixing = rng.uniform(0, 1) * rng.standard_normal((count, count)) * (rng.random((count, count)) < 1.5 / count)
    mixing += np.eye(count)
    bottom, scales = rng.uniform(-1, 1, count), _scales(rng, count)
    power, floor = rng.uniform(1, 2.5), np.exp(rng.uniform(-4, 0))
    uphill, edge = scales * rng.standard_normal(count), rng.uniform(0.3, 2) if rng.random() < 0.5 else np.inf

    def objective(codes: np.ndarray) -> np.ndarray:
        x = _look_up(places, codes)
        loss = (scales * np.abs((x - bottom) @ mixing) ** power).sum(1)
        beyond = x @ uphill > edge * np.linalg.norm(uphill)
        return -np.log(floor + np.where(beyond, 3 * scales.sum(), loss))

    return objective


def _failures(rng: Rng, sizes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Codes that fail: two positions take certain options together."""
    chosen = rng.choice(len(sizes), min(2, len(sizes)), replace=False)
    bad = [rng.random(sizes[i]) < 0.5 for i in chosen]
    return lambda codes: np.all([b[codes[:, i]] for i, b in zip(chosen, bad, strict=True)], axis=0)


def _standardise(part: Objective, probe: np.ndarray) -> Objective:
    values = part(probe)
    mean, spread = float(values.mean()), float(values.std()) + 1e-9
    return lambda codes: (part(codes) - mean) / spread


_FAMILIES = (_interactions, _bottleneck, _graph, _network, _trees, _hills, _valley)
_SHARES = (0.1, 0.05, 0.15, 0.15, 0.15, 0.08, 0.32)
