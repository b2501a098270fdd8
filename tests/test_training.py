"""Prior, trajectories, the trained form against the exported Llama, the trainer's resume."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from lmsearcher_local.prompt.compact import ALIASES, BASE, SLOTS
from lmsearcher_local.training.peers import PEERS
from lmsearcher_local.training.prior import draw_objective, draw_ordinal, draw_sizes
from lmsearcher_local.training.trajectories import draw_batch, draw_shape, draw_task

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


def test_batches_are_in_range_and_repeatable() -> None:
    def draw() -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng(5)
        positions, n, m, _ = draw_shape(rng, 2000)
        batch = draw_batch(rng, [draw_task(rng, positions, n, m) for _ in range(3)])
        return batch.digits, batch.bins, batch.aliases, batch.truth

    first, second = draw(), draw()
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert first[0].max() < SLOTS * BASE
    assert first[2].max() < ALIASES


def test_peers_beat_chance() -> None:
    tasks = [draw_task(np.random.default_rng((7, i)), 5, 60, 10) for i in range(60)]
    for peer in PEERS.values():
        assert np.mean([np.argmax(peer(task)) == np.argmax(task.truth) for task in tasks]) > 0.2


def test_hand_written_weights_rank_above_chance_and_export_exactly(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from lmsearcher_local.training.evaluate import checkpoint_predictions, figures, held_out_tasks, model_predictions
    from lmsearcher_local.training.export import export
    from lmsearcher_local.training.model import Ranker
    from lmsearcher_local.training.start import set_start

    model = Ranker(0)
    set_start(model)
    tasks = held_out_tasks(50, 60)
    picks, scores = model_predictions(model, tasks)
    assert figures(scores, tasks)["top1"] > 0.25
    for ours, theirs in zip(picks[:3], checkpoint_predictions(export(model, tmp_path), tasks[:3]), strict=True):
        ours, theirs = (np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in (ours, theirs))
        assert np.abs(ours - theirs).max() < 0.02  # bfloat16 storage
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 8e6


def test_muon_is_pytorchs_in_another_precision() -> None:
    from lmsearcher_local.training.muon import Muon

    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((24, 16), (16, 40), (24, 16))]
    theirs = [torch.nn.Parameter(matrix.detach().clone()) for matrix in ours]
    pair = Muon(ours, lr=0.1, momentum=0.95), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0, momentum=0.95)
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimiser in pair:
            optimiser.step()
    assert all(torch.allclose(a, b, atol=0.01) for a, b in zip(ours, theirs, strict=True))


def test_training_resumes_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lmsearcher_local.training import train as trainer

    def run(name: str) -> None:
        trainer.train(tmp_path / name, seed=3, steps=2, tokens=200, save_every=1, evaluate_every=100)

    monkeypatch.setattr(trainer, "HISTORY_SIZES", (10,))
    run("whole")
    stream = trainer._stream
    with monkeypatch.context() as patch:  # a run that ends after its first step
        patch.setattr(trainer, "_stream", lambda *arguments: islice(stream(*arguments), 1))
        run("parts")
    run("parts")
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True)["model"] for name in ("whole", "parts")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert [len((tmp_path / name / "log.jsonl").read_text().splitlines()) for name in ("whole", "parts")] == [2, 2]
    assert (tmp_path / "parts" / "checkpoint" / "model.safetensors").exists()
    assert (tmp_path / "parts" / "curves.png").exists()
