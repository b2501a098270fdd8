"""Prior, trajectories, the trained form against the exported Llama."""

from pathlib import Path

import numpy as np
import pytest

from bench.predictors import BASELINES
from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.model.checkpoint import TABLE
from lmsearcher_local.model.codecs.compact import ALIASES, BASE, SCORES, SLOTS, load_codec
from lmsearcher_local.training.prior import draw_objective, draw_ordinal, draw_sizes
from lmsearcher_local.training.trajectories import Batch, Task, draw_batch, draw_lesson, draw_shape

torch = pytest.importorskip("torch")


def test_objectives_are_finite_and_vary() -> None:
    varied = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sizes = draw_sizes(rng, int(rng.integers(2, 20)), 300)
        values = draw_objective(rng, sizes, draw_ordinal(rng, len(sizes)))(
            rng.integers(0, sizes, size=(100, len(sizes)))
        )
        assert values.shape == (100,)
        assert np.isfinite(values).all()
        varied += len(np.unique(values)) > 2
    assert varied >= 55


def draw_task(rng: np.random.Generator, positions: int, n: int, m: int) -> Task:
    lesson = draw_lesson(rng, positions, n, m, 1)
    return Task(lesson.space, lesson.history, lesson.scores, lesson.pools[0], lesson.truth[0])


def test_tasks_hold_distinct_codes_of_their_space() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        task = draw_task(rng, 3, 30, 12)
        rows = np.concatenate([task.history, task.pool])
        assert len({tuple(row) for row in rows.tolist()}) == 42
        assert (rows >= 0).all()
        assert (rows < task.space.sizes).all()
        history, pool = task.question()
        assert [task.space.indices(code) for code in (*history.codes, *pool)] == [tuple(row) for row in rows.tolist()]


def test_lessons_hold_several_pools_behind_one_history() -> None:
    for seed in range(10):
        lesson = draw_lesson(np.random.default_rng(seed), 4, 20, 8, 3, wrong=0.5)
        assert lesson.pools.shape == (3, 8, 4)
        known = {tuple(row) for row in lesson.history.tolist()}
        for pool in lesson.pools:
            codes = {tuple(row) for row in pool.tolist()}
            assert len(codes) == 8
            assert not codes & known


def flat(batch: Batch) -> list[np.ndarray]:
    return [*batch.codes, *batch[1:]]


def test_batches_are_in_range_and_repeatable() -> None:
    def draw() -> Batch:
        rng = np.random.default_rng(5)
        positions, n, m, k, _ = draw_shape(rng, 2000)
        return draw_batch(rng, [draw_lesson(rng, positions, n, m, k, 0.5) for _ in range(3)])

    first, second = draw(), draw()
    assert all((a == b).all() for a, b in zip(flat(first), flat(second), strict=True))
    assert all(np.isfinite(part).all() for part in flat(first))
    assert first.codes.options.max() < SLOTS * BASE


def test_peers_beat_chance() -> None:
    tasks = [draw_task(np.random.default_rng((7, i)), 5, 60, 10) for i in range(60)]
    for baseline in BASELINES.values():
        assert np.mean([np.argmax(baseline(task)) == np.argmax(task.truth) for task in tasks]) > 0.2


def test_the_exported_llama_answers_as_the_trained_form(tmp_path: Path) -> None:
    """Each pool of a lesson as if it stood behind the history alone, through the codec and plain transformers."""
    transformers = pytest.importorskip("transformers")
    from lmsearcher_local.training.model import Ranker
    from lmsearcher_local.training.train import export

    model = Ranker(0).eval()
    with torch.no_grad():  # larger weights than those of a start, so that every row and every order matters
        for parameter in model.llama.parameters():
            parameter.mul_(3)
    folder = export(model, tmp_path / "checkpoint")
    llama = transformers.LlamaForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    codec = load_codec(folder / TABLE, llama.config.hidden_size)
    for positions, n, m, k in ((4, 20, 7, 3), (20, 3, 5, 2)):
        lesson = draw_lesson(np.random.default_rng(n), positions, n, m, k)
        with torch.no_grad():
            pick, scores = model(draw_batch(np.random.default_rng(0), [lesson], augment=False))
            for j, codes in enumerate(map(lesson.space.codes, lesson.pools)):
                pool = Pool(tuple(codes), lesson.surrogate)
                rows = codec.prompt(lesson.space, lesson.surrogate.history, pool)
                logits = llama(inputs_embeds=torch.from_numpy(rows)[None]).logits[0]
                assert torch.allclose(logits[-1, :ALIASES], pick[0, j], atol=1e-4)
                assert torch.allclose(logits[n:-1, ALIASES:], scores[1, 0, j], atol=1e-4)
                alone = llama(inputs_embeds=torch.from_numpy(codec.score_prompts(pool)[0])[None]).logits[0, -1]
                assert torch.allclose(alone[ALIASES : ALIASES + SCORES], scores[1, 0, j, 0], atol=1e-4)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 8e6
