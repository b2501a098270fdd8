"""The primitive on a plain transformers model: for machines where vLLM has no build, and the reference for parity."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmsearcher_local.checkpoint import Checkpoint
from lmsearcher_local.engine.base import Question
from lmsearcher_local.errors import EngineError

BATCH_TOKENS = 32_768  # padded tokens in one forward pass


class TransformersEngine:
    """A checkpoint loaded in transformers, on the GPU where torch sees one.

    Raises:
        EngineError: transformers or torch is missing, or the memory does not suffice.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        try:
            import torch
            from transformers import AutoModelForCausalLM
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
            self._model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineError(f"transformers cannot load {checkpoint.path} ({' '.join(str(error).split())})") from error

    def log_probs(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """Log-probabilities of each question's tokens; questions of like length share a forward pass."""
        answers: list[np.ndarray] = [np.empty(0)] * len(questions)
        order = sorted(range(len(questions)), key=lambda i: len(questions[i].prefix))
        while order:
            longest = len(questions[order[-1]].prefix)
            batch = order[-max(1, BATCH_TOKENS // longest) :]
            del order[-len(batch) :]
            for i, row in zip(batch, self._next_token([questions[i].prefix for i in batch]), strict=True):
                answers[i] = row[list(questions[i].tokens)].double().cpu().numpy()
        return answers

    def close(self) -> None:
        """Free the model's memory."""
        del self._model
        if self._torch.cuda.is_available():
            self._torch.cuda.empty_cache()

    def _next_token(self, prefixes: list[Sequence[int]]) -> Any:
        """Log-probabilities over the vocabulary after each prefix, float32 ``[len(prefixes), vocabulary]``."""
        torch, device = self._torch, self._model.device
        last = torch.tensor([len(prefix) - 1 for prefix in prefixes], device=device)
        # Padding on the right needs no mask: a causal model's token never sees what follows it.
        rows = [torch.tensor(prefix, dtype=torch.long) for prefix in prefixes]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
        with torch.inference_mode():
            hidden = self._model.model(input_ids=tokens, use_cache=False).last_hidden_state
            logits = self._model.lm_head(hidden[torch.arange(len(prefixes), device=device), last])
            return logits.float().log_softmax(-1)
