"""The primitive on a plain transformers model: for machines where vLLM has no build, and the reference for parity."""

from collections.abc import Iterator, Sequence
from math import isqrt
from typing import Any

import numpy as np

from lmsearcher_local.errors import EngineError
from lmsearcher_local.model.adapter import merge
from lmsearcher_local.model.checkpoint import Checkpoint
from lmsearcher_local.model.engines import transformers_internals as internals
from lmsearcher_local.model.engines.base import Engine, Prefix, Question
from lmsearcher_local.model.engines.checks import check_prefixes, check_tokens
from lmsearcher_local.model.engines.host import preserved_host
from lmsearcher_local.model.engines.prefixes import shared_beginnings

BATCH_TOKENS = 32_768  # padded tokens in one forward pass
ROW_TOKENS = 1024  # tokens of several prefixes in one row behind a cache; each attends to its own, the rest is waste
LOGITS = 1 << 26  # whole rows of logits in one forward pass, in values, where the model itself has to make them
LARGE = 100.0  # a logit that no cap on logits lets pass
# Of data types: how far the gap between two tokens may change with batch and sharing, in nats, and how far two ways to
# the same values may be apart, relative to the largest. Others than float32 have the larger ones.
NOISE = {"float32": 1e-3, "other": 0.25}
ROUNDING = {"float32": 1e-3, "other": 3e-2}
Batches = Iterator[tuple[list[int], Any]]  # numbers of prefixes, and what ``_next`` returns after each


class TransformersEngine(Engine):
    """A checkpoint loaded in transformers, on the GPU where torch sees one. ``model`` is the transformers model.

    Where the logits are plainly the head's weight times the last hidden state, only those asked about are computed. Of
    a model that scales, caps or shifts them, the whole row is. What is so is found by trying, at load.

    Nothing is kept between calls, so that a question asked alone is asked cold.

    Raises:
        EngineError: transformers or torch is missing, the model cannot be read, or the memory does not suffice.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._table: Any = None  # of a call behind rows: its distinct rows, on the device
        self.max_length = checkpoint.context
        try:
            with preserved_host(), internals.without_bars():
                self._load(checkpoint)
        except ImportError as error:
            advice = "install lmsearcher-local[cpu] or [cuda]"
            raise EngineError(f"transformers cannot be imported ({error}); {advice}") from error
        except (OSError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise EngineError(f"transformers cannot load {checkpoint.path} ({' '.join(str(error).split())})") from error

    def _load(self, checkpoint: Checkpoint) -> None:
        import torch

        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.can_sleep = self._device == "cuda"
        self.model = _load_model(checkpoint).to(self._device).eval()
        self.noise = NOISE[self._kind]
        self._empty = internals.empty_cache(self.model.config)
        with torch.inference_mode():
            self._plain = self._head_is_plain()
            self._next(np.zeros((1, 1), dtype=np.int64), [0], [0])  # a model may have no way for what is not plain
            self._shares = internals.keeps_all_keys(self._empty) and self._can_share()

    def log_probs(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """Log-probabilities of each question's tokens, over the tokens asked about after the same prefix.

        Values of one prefix are right up to one constant, which renormalising takes out. Beginnings that many prefixes
        share are computed once.
        """
        check_tokens([question.tokens for question in questions], self._checkpoint)
        check_prefixes([question.prefix for question in questions], self._checkpoint, self.max_length)
        numbers = self._number([question.prefix for question in questions])
        keys = [prefix.astype(">u4").tobytes() for prefix in numbers]  # sort as numbers do
        wanted: dict[bytes, dict[int, int]] = {}  # for each prefix the tokens asked about and their place in the answer
        for key, question in zip(keys, questions, strict=True):
            places = wanted.setdefault(key, {})
            for token in question.tokens:
                places.setdefault(token, len(places))
        distinct = sorted(wanted)
        prefixes = [np.frombuffer(key, dtype=">u4").astype(np.int64) for key in distinct]
        answers: dict[bytes, np.ndarray] = {}
        with self._torch.inference_mode():
            for batch, states in self._last_states(prefixes):
                tokens = [list(wanted[distinct[i]]) for i in batch]
                values = np.split(self._log_softmax(states, tokens), np.cumsum([len(ids) for ids in tokens])[:-1])
                answers.update(zip((distinct[i] for i in batch), values, strict=True))
        return [
            answers[key][[wanted[key][token] for token in question.tokens]]
            for key, question in zip(keys, questions, strict=True)
        ]

    def sleep(self) -> None:
        """Move the model to the host's memory."""
        if not self.can_sleep:
            super().sleep()
        self.model.to("cpu")
        self.is_asleep = True
        self._torch.cuda.empty_cache()

    def wake_up(self) -> None:
        """Move the model back to the card. An ``EngineError`` where it has no room; this may be called again then."""
        if not self.can_sleep:
            super().wake_up()
        try:
            self.model.to(self._device)
        except self._torch.OutOfMemoryError as error:
            need = self.model.get_memory_footprint() / 2**30
            raise EngineError(f"the card has no room to wake the model up, which takes {need:.1f} GiB") from error
        self.is_asleep = False

    def close(self) -> None:
        """Free the model's memory."""
        del self.model
        if self._torch.cuda.is_available():
            self._torch.cuda.empty_cache()

    def _number(self, prefixes: Sequence[Prefix]) -> list[np.ndarray]:
        """Each prefix as numbers: token ids, or where its rows stand in the table of all distinct rows."""
        self._table = None
        rows = [prefix for prefix in prefixes if isinstance(prefix, np.ndarray)]
        if not rows:
            return [np.array(prefix) for prefix in prefixes]
        whole = np.ascontiguousarray(np.concatenate(rows))
        _, first, numbers = np.unique(whole.view(f"V{whole[0].nbytes}"), return_index=True, return_inverse=True)
        self._table = self._torch.from_numpy(whole[first]).to(self.model.device, self.model.dtype)
        ends = np.cumsum([len(prefix) for prefix in rows])
        return [numbers.ravel()[end - len(prefix) : end] for prefix, end in zip(rows, ends, strict=True)]

    def _inputs(self, numbers: np.ndarray) -> dict[str, Any]:
        """What the model is given for numbers ``[batch, length]``: the ids themselves, or their rows."""
        ids = self._torch.from_numpy(numbers).to(self.model.device)
        return {"input_ids": ids} if self._table is None else {"inputs_embeds": self._table[ids]}

    @property
    def _kind(self) -> str:
        return "float32" if self.model.dtype == self._torch.float32 else "other"

    def _head_is_plain(self) -> bool:
        """Whether logits are the head's weight times the last hidden state, with nothing before or after.

        Looked at with a hidden state as it is, and with one so long that no cap on the logits can hide.
        """
        model, torch = self.model, self._torch
        head, base = model.get_output_embeddings(), model.base_model
        if base is model or getattr(head, "bias", None) is not None or not torch.is_tensor(getattr(head, "weight", 0)):
            return False
        ids = torch.arange(0, len(head.weight), -(-len(head.weight) // 64), device=model.device)
        hidden = base(input_ids=ids[None], use_cache=False).last_hidden_state[0, -1]
        product = head.weight[ids].float() @ hidden.float()
        largest = float(product.abs().max()) or 1.0
        for factor in (1.0, LARGE / largest):
            with internals.scaled_states(model, factor):
                logits = model(input_ids=ids[None], use_cache=False).logits[0, -1, ids].float()
            if not float((logits - factor * product).abs().max()) <= ROUNDING[self._kind] * factor * largest:
                return False
        return True

    def _can_share(self) -> bool:
        """Whether prefixes behind a cached beginning, side by side in one row, answer as each alone."""
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        tokens = np.random.default_rng(0).integers(vocabulary, size=24)
        prefixes = [tokens[:16], np.append(tokens[:8], tokens[16:])]
        cache = internals.fork(self._empty)
        try:
            self._append(tokens[None, :8], cache)
            [(shared, together)] = self._compute_behind(cache, prefixes, [0, 1])
        except (RuntimeError, TypeError, ValueError):
            return False  # the model takes no mask of this kind
        alone = self._torch.cat([states for i in shared for _, states in self._compute_alone(prefixes, [i])])
        return bool((together - alone).norm() <= 3 * ROUNDING[self._kind] * alone.norm())

    def _log_softmax(self, states: Any, tokens: list[list[int]]) -> np.ndarray:
        """Log-softmax over each row's own tokens, row after row, of what ``_next`` returns."""
        from lmsearcher_kernels import restricted_head

        if self._plain:
            values = restricted_head(states, self.model.get_output_embeddings().weight, tokens)
        else:
            rows = [row[ids].float().log_softmax(-1) for row, ids in zip(states, tokens, strict=True)]
            values = self._torch.cat(rows)
        return values.double().cpu().numpy()

    def _last_states(self, prefixes: Sequence[np.ndarray]) -> Batches:
        """What ``_next`` returns after each prefix, in batches of prefix numbers."""
        if not self._shares:
            yield from self._compute_alone(prefixes, range(len(prefixes)))
            return
        pending = [(shared_beginnings(prefixes), self._empty)]
        while pending:
            node, cache = pending.pop()
            known = cache.get_seq_length()
            if node.length > known:
                cache = internals.fork(cache)
                self._append(prefixes[node.first][None, known : node.length], cache)
            pending += [(child, cache) for child in node.children]
            if node.length:
                yield from self._compute_behind(cache, prefixes, node.ends)
            else:
                yield from self._compute_alone(prefixes, node.ends)

    def _compute_alone(self, prefixes: Sequence[np.ndarray], numbers: Sequence[int]) -> Batches:
        """Whole prefixes, those of like length in one forward pass."""
        order = sorted(numbers, key=lambda i: len(prefixes[i]))
        while order:
            longest = len(prefixes[order[-1]])
            size = max(1, min(BATCH_TOKENS // longest, isqrt(self._rows)))
            batch = [i for i in order[-size:] if len(prefixes[i]) >= longest - longest // 8 - 16]
            del order[-len(batch) :]
            # Padding on the right needs no mask: a causal model's token never sees what follows it.
            padded = np.zeros((len(batch), longest), dtype=np.int64)
            for row, i in zip(padded, batch, strict=True):
                row[: len(prefixes[i])] = prefixes[i]
            places = [len(prefixes[i]) - 1 for i in batch]
            yield batch, self._next(padded, range(len(batch)), places, use_cache=False)

    def _compute_behind(self, cache: Any, prefixes: Sequence[np.ndarray], numbers: Sequence[int]) -> Batches:
        """What follows a cached beginning: many short rests in one row, none of which sees another.

        Expanding the cache to a batch would copy it for every rest, in every layer.
        """
        torch, device = self._torch, self.model.device
        known = cache.get_seq_length()
        left = list(numbers)
        while left:
            batch = [left.pop()]
            sizes = [len(prefixes[batch[0]]) - known]
            while left and sum(sizes) + len(prefixes[left[-1]]) - known <= min(ROW_TOKENS, self._rows):
                batch.append(left.pop())
                sizes.append(len(prefixes[batch[-1]]) - known)
            owner = torch.arange(len(batch), device=device).repeat_interleave(torch.tensor(sizes, device=device))
            sees = (owner[:, None] == owner).tril()
            mask = torch.zeros(1, 1, len(sees), known + len(sees), dtype=self.model.dtype, device=device)
            mask[..., known:].masked_fill_(~sees, -torch.inf)
            places = np.concatenate([np.arange(known, known + size) for size in sizes])
            rests = np.concatenate([prefixes[i][known:] for i in batch])[None]
            given = {"attention_mask": mask, "position_ids": torch.from_numpy(places)[None].to(device)}
            given["past_key_values"] = internals.fork(cache)
            yield batch, self._next(rests, [0] * len(batch), np.cumsum(sizes) - 1, **given)

    @property
    def _rows(self) -> int:
        """How many rows of logits one forward pass makes at most; none where the head is plain."""
        return BATCH_TOKENS**2 if self._plain else LOGITS // self.model.config.vocab_size

    def _append(self, tokens: np.ndarray, cache: Any) -> None:
        """Append the keys and values of ``tokens`` to a cache."""
        self.model.base_model(**self._inputs(tokens), past_key_values=cache, use_cache=True)

    def _next(self, tokens: np.ndarray, rows: Sequence[int], places: Sequence[int] | np.ndarray, **options: Any) -> Any:
        """The last hidden states ``[len(rows), size]`` at those rows and places of ``tokens`` ``[batch, length]``.

        Of a model whose head is not plain, the logits ``[len(rows), vocabulary]`` in their stead.
        """
        given = self._inputs(tokens) | options
        if self._plain:
            return self.model.base_model(**given).last_hidden_state[rows, places]
        kept, index = np.unique(places, return_inverse=True)
        wanted = self._torch.from_numpy(kept).to(self.model.device)
        return internals.last_logits(self.model, wanted, **given)[rows, index]


def _load_model(checkpoint: Checkpoint) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(checkpoint.path, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint.path,
        config=config,
        local_files_only=True,
        use_safetensors=True,
        dtype="auto",
        attn_implementation="eager" if internals.caps_attention(config) else None,
    )
    if checkpoint.adapter:
        merge(model, checkpoint.adapter)
    return model
