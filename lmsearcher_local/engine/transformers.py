"""The primitive on a plain transformers model: for machines where vLLM has no build, and the reference for parity."""

import copy
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lmsearcher_local.checkpoint import Checkpoint
from lmsearcher_local.engine.base import Engine, Question
from lmsearcher_local.engine.prefixes import shared_beginnings
from lmsearcher_local.errors import EngineError

BATCH_TOKENS = 32_768  # padded tokens in one forward pass
ROW_TOKENS = 1024  # tokens of several prefixes in one row behind a cache; each attends to its own, the rest is waste


class TransformersEngine(Engine):
    """A checkpoint loaded in transformers, on the GPU where torch sees one. ``model`` is the transformers model.

    Raises:
        EngineError: transformers or torch is missing, the model has a head of another kind, or the memory does not
            suffice.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        try:
            import torch
            from transformers import AutoModelForCausalLM, DynamicCache
            from transformers.cache_utils import DynamicLayer
        except ImportError as error:
            raise EngineError(
                f"transformers cannot be imported ({error}); install lmsearcher-local[cpu] or [cuda]"
            ) from error
        self.max_length = checkpoint.context
        self._torch = torch
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                checkpoint.path, local_files_only=True, use_safetensors=True, dtype="auto"
            )
            self.model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineError(f"transformers cannot load {checkpoint.path} ({' '.join(str(error).split())})") from error
        if getattr(self.model.lm_head, "bias", None) is not None:
            raise EngineError(f"{checkpoint.path} has a head with a bias, which this engine does not read")
        self._empty = DynamicCache(config=self.model.config)
        # A layer that sees a window only, or keeps a state instead of keys, takes no mask of ours.
        self._shares = all(type(layer) is DynamicLayer for layer in self._empty.layers)

    def log_probs(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """Log-probabilities of each question's tokens, over the tokens asked about after the same prefix.

        The vocabulary's other tokens are never computed, so that values of one prefix are right up to one constant,
        which renormalising takes out. Beginnings that many prefixes share are computed once.
        """
        keys = [np.asarray(question.prefix, dtype=">u4").tobytes() for question in questions]  # sort as numbers do
        wanted: dict[bytes, dict[int, int]] = {}  # for each prefix the tokens asked about and their place in the answer
        for key, question in zip(keys, questions, strict=True):
            places = wanted.setdefault(key, {})
            for token in question.tokens:
                places.setdefault(token, len(places))
        distinct = sorted(wanted)
        prefixes = [np.frombuffer(key, dtype=">u4").astype(np.int64) for key in distinct]
        answers: dict[bytes, np.ndarray] = {}
        with self._torch.inference_mode():
            for batch, hidden in self._last_states(prefixes):
                tokens = [list(wanted[distinct[i]]) for i in batch]
                ends = np.cumsum([len(ids) for ids in tokens])
                values = self._head(hidden, tokens)
                answers.update(zip((distinct[i] for i in batch), np.split(values, ends[:-1]), strict=True))
        return [
            answers[key][[wanted[key][token] for token in question.tokens]]
            for key, question in zip(keys, questions, strict=True)
        ]

    def close(self) -> None:
        """Free the model's memory."""
        del self.model
        if self._torch.cuda.is_available():
            self._torch.cuda.empty_cache()

    def _head(self, hidden: Any, tokens: list[list[int]]) -> np.ndarray:
        from lmsearcher_kernels import restricted_head

        return restricted_head(hidden, self.model.lm_head.weight, tokens).double().cpu().numpy()

    def _last_states(self, prefixes: Sequence[np.ndarray]) -> Iterator[tuple[list[int], Any]]:
        """The hidden state ``[len(batch), size]`` after each prefix, in batches of prefix numbers."""
        if not self._shares:
            yield from self._alone(prefixes, range(len(prefixes)))
            return
        pending = [(shared_beginnings(prefixes), self._empty)]
        while pending:
            node, cache = pending.pop()
            known = cache.get_seq_length()
            if node.length > known:
                cache = _fork(cache)
                self._forward(prefixes[node.first][None, known : node.length], past_key_values=cache)
            pending += [(child, cache) for child in node.children]
            yield from self._behind(cache, prefixes, node.ends) if node.length else self._alone(prefixes, node.ends)

    def _alone(self, prefixes: Sequence[np.ndarray], numbers: Sequence[int]) -> Iterator[tuple[list[int], Any]]:
        """Whole prefixes, those of like length in one forward pass."""
        order = sorted(numbers, key=lambda i: len(prefixes[i]))
        while order:
            longest = len(prefixes[order[-1]])
            size = max(1, BATCH_TOKENS // longest)
            batch = [i for i in order[-size:] if len(prefixes[i]) >= longest - longest // 8 - 16]
            del order[-len(batch) :]
            # Padding on the right needs no mask: a causal model's token never sees what follows it.
            padded = np.zeros((len(batch), longest), dtype=np.int64)
            for row, i in zip(padded, batch, strict=True):
                row[: len(prefixes[i])] = prefixes[i]
            hidden = self._forward(padded, use_cache=False)
            yield batch, hidden[range(len(batch)), [len(prefixes[i]) - 1 for i in batch]]

    def _behind(
        self, cache: Any, prefixes: Sequence[np.ndarray], numbers: Sequence[int]
    ) -> Iterator[tuple[list[int], Any]]:
        """What follows a cached beginning: many short rests in one row, none of which sees another.

        Expanding the cache to a batch would copy it for every rest, in every layer.
        """
        torch, device = self._torch, self.model.device
        known = cache.get_seq_length()
        left = list(numbers)
        while left:
            batch: list[int] = []
            sizes: list[int] = []
            while left and (not batch or sum(sizes) + len(prefixes[left[-1]]) - known <= ROW_TOKENS):
                batch.append(left.pop())
                sizes.append(len(prefixes[batch[-1]]) - known)
            owner = torch.arange(len(batch), device=device).repeat_interleave(torch.tensor(sizes, device=device))
            sees = (owner[:, None] == owner).tril()
            mask = torch.zeros(1, 1, len(sees), known + len(sees), dtype=self.model.dtype, device=device)
            mask[..., known:].masked_fill_(~sees, -torch.inf)
            places = np.concatenate([np.arange(known, known + size) for size in sizes])
            hidden = self._forward(
                np.concatenate([prefixes[i][known:] for i in batch])[None],
                attention_mask=mask,
                position_ids=torch.from_numpy(places)[None].to(device),
                past_key_values=_fork(cache),
            )
            yield batch, hidden[0, np.cumsum(sizes) - 1]

    def _forward(self, tokens: np.ndarray, **options: Any) -> Any:
        """The last layer's hidden states ``[*tokens.shape, size]``."""
        ids = self._torch.from_numpy(tokens).to(self.model.device)
        return self.model.model(input_ids=ids, **options).last_hidden_state


def _fork(cache: Any) -> Any:
    """A cache that grows without changing this one; the tensors, which are replaced when they grow, are shared."""
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    return fork
