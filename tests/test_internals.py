"""Private interfaces of Optuna and transformers are there; vLLM's are tried in ``test_vllm_engine.py``."""

import ast
import sys
from copy import copy
from pathlib import Path

import optuna
import pytest
import torch
from huggingface_hub import constants
from interfaces import interfaces_of
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from transformers import Gemma2Config, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

import lmsearcher_local
from lmsearcher_local.model.engines import transformers_internals as of_transformers
from lmsearcher_local.system import optuna_internals as of_optuna

PACKAGE = Path(lmsearcher_local.__file__).parent
PRIVATE = {  # attributes of objects of Optuna and vLLM
    *("_storage", "_study_id", "_trial_id", "_contains", "_thread_lock", "_sync_with_backend", "_replay_result"),
    *("llm_engine", "engine_core", "output_processor", "num_cached_tokens"),
}


def test_private_interfaces_are_used_in_their_modules_alone() -> None:
    found = [
        f"{file.relative_to(PACKAGE)}, line {node.lineno}: {node.attr}"
        for file in PACKAGE.rglob("*.py")
        if not file.stem.endswith("_internals")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in PRIVATE
        if not (isinstance(node.value, ast.Name) and node.value.id == "self")
    ]
    assert not found


def test_a_missing_interface_is_named_with_the_versions_tested() -> None:
    with (
        pytest.raises(
            pytest.fail.Exception, match=r"transformers 5\S+ lacks what transformers_internals.py uses"
        ) as failed,
        interfaces_of("transformers", of_transformers),
    ):
        of_transformers.keeps_all_keys(None)
    assert "(tested with transformers 5.19.0): 'NoneType' object has no attribute 'layers'" in str(failed.value)


def test_transformers_has_what_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=16, **shape)).eval()
    ids = torch.arange(4)[None]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    with torch.inference_mode(), interfaces_of("transformers", of_transformers):
        cache = of_transformers.empty_cache(model.config)
        assert of_transformers.keeps_all_keys(cache)
        model(ids, past_key_values=cache)
        forked = of_transformers.fork(cache)
        model(ids, past_key_values=forked)
        assert (cache.get_seq_length(), forked.get_seq_length()) == (4, 8)
        logits = model(ids).logits
        last = of_transformers.last_logits(model, torch.tensor([3]), input_ids=ids)
        torch.testing.assert_close(last, logits[:, 3:])
        with of_transformers.scaled_states(model, 2.0):
            torch.testing.assert_close(model(ids).logits, 2 * logits)
        torch.testing.assert_close(model(ids).logits, logits)
        assert not of_transformers.caps_attention(model.config)
        assert of_transformers.caps_attention(Gemma2Config())
        with of_transformers.without_bars():
            assert type(logging.tqdm([1])).__name__ == "EmptyTqdm"
        with of_transformers.offline_hub():
            assert constants.HF_HUB_OFFLINE is True


@pytest.mark.parametrize("kind", ["memory", "journal", "database"])
def test_optuna_has_what_is_used(kind: str, tmp_path: Path) -> None:
    storage = {
        "memory": InMemoryStorage,
        "journal": lambda: JournalStorage(JournalFileBackend(str(tmp_path / "journal"))),
        "database": lambda: RDBStorage(f"sqlite:///{tmp_path}/study.db"),
    }[kind]()
    study, other = (optuna.create_study(storage=storage, study_name=name) for name in ("one", "two"))
    choice = CategoricalDistribution([4, 8])
    with interfaces_of("optuna", of_optuna):
        assert of_optuna.is_same_study(study, copy(study))
        assert not of_optuna.is_same_study(study, other)
        other.add_trial(optuna.trial.create_trial(value=0.0))  # ids are the storage's, numbers the study's
        study.enqueue_trial({"x": 8})
        [waiting] = of_optuna.list_trials(study, [], 0)
        assert of_optuna.enqueued_values(waiting) == {"x": 8}
        assert of_optuna.begin_trial(study, waiting)
        assert not of_optuna.begin_trial(study, waiting)  # somebody was quicker
        of_optuna.set_parameter(study, waiting, "x", 8, choice)
        of_optuna.set_user_attribute(study, waiting, "mine", True)
        of_optuna.set_system_attribute(study, waiting, "claim", {"x": 8})
        running = of_optuna.read_trial(study, waiting)
        assert (running.state, running.params) == (TrialState.RUNNING, {"x": 8})
        assert running.user_attrs == {"mine": True}
        assert running.system_attrs["claim"] == {"x": 8}
        template = optuna.trial.create_trial(state=TrialState.RUNNING, params={"x": 4}, distributions={"x": choice})
        second = of_optuna.create_trial(study, template)
        assert (second.number, second.params) == (1, {"x": 4})
        of_optuna.report(study, second, 3, 0.25)
        assert of_optuna.read_trial(study, second).intermediate_values == {3: 0.25}
        view = of_optuna.view_without(study, "mine", optuna.pruners.HyperbandPruner(max_resource=9))
        [seen] = view.get_trials(deepcopy=False)
        assert seen.number == 0
        assert of_optuna.is_same_trial(seen, second)
        assert not of_optuna.is_same_trial(seen, waiting)
        assert view.pruner.prune(view, seen) in (False, True)
        of_optuna.end_trial(study, waiting, TrialState.COMPLETE, [0.5])
        of_optuna.end_trial(study, second, TrialState.FAIL)
        states = [(trial.state, trial.values) for trial in of_optuna.list_trials(study, [0], 1)]
        assert states == [(TrialState.COMPLETE, [0.5]), (TrialState.FAIL, None)]
        assert of_optuna.allows(choice, 8)
        assert not of_optuna.allows(IntDistribution(1, 3), 4)
