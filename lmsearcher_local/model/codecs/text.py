"""The published text protocol: history and pool as one message of a chat, in that of Llama 3 byte for byte.

``cell|score,…,cell|score,cand;…;cand;`` with the history best first, scores min-max normalised (paper, section 3.2,
and the published code).
"""

import random
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from lmsearcher_local.candidates.history import HISTORY_CAP, History, min_max
from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.errors import CheckpointError
from lmsearcher_local.model.codecs.chat import Frame
from lmsearcher_local.spaces.space import SearchSpace

SYSTEM = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
ANSWER = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
# Llama 3.1's chat template dates every prompt; LLaMA-Factory's `llama3` template, used in training, does not.
SPECIAL = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TEMPLATES = {
    "llama3.1": SYSTEM + "Cutting Knowledge Date: December 2023\nToday Date: {date}\n\n{message}" + ANSWER,
    "llama3": SYSTEM + "{message}" + ANSWER,
}


def published_frame(template: str, date: str) -> Frame:
    """What one of ``TEMPLATES`` writes around the message. The date is pinned: no search changes with the day."""
    before, after = TEMPLATES[template].split("{message}")
    return Frame(before.format(date=date), after)


def message(history: History, pool: Sequence[str], score_digits: int = 4) -> str:
    """The text of the system message: at most 200 history items, best first, then the candidates."""
    shown = history.best(HISTORY_CAP)
    scores = min_max(shown.scores) if shown.scores else []
    items = [f"{code}|{round(score, score_digits)}," for code, score in zip(shown.codes, scores, strict=True)]
    return "".join(items) + "".join(f"{code};" for code in pool)


class TextCodec:
    """The text protocol under a checkpoint's tokenizer, in a frame, with so many decimals of a score.

    Raises:
        CheckpointError: the tokenizer lacks the special tokens of Llama 3's frame, or answers could not be told apart:
            it splits a code differently alone and as an answer, or loses digits.
    """

    max_pool = 1000
    group = 10

    def __init__(self, tokenizer: Tokenizer, frame: Frame, score_digits: int) -> None:
        self.frame = frame
        self.score_digits = score_digits
        self._tokenizer = tokenizer
        self._answers: dict[str, list[int]] = {}
        for token in SPECIAL if frame.after == ANSWER else ():
            if tokenizer.token_to_id(token) is None:
                needed = 'this template needs a Llama 3 tokenizer, "own" any'
                raise CheckpointError(f"the tokenizer has no token {token}; {needed}")
        rng = random.Random(0)
        header = self._encode(frame.after)
        for length in range(1, 65):
            code = "".join(rng.choices("0123456789", k=length))
            answer = self._encode(code)
            if header + answer != self._encode(frame.after + code) or tokenizer.decode(answer) != code:
                raise CheckpointError(f"the tokenizer splits the code {code} in a way that answers cannot be read from")

    def render(self, history: History, pool: Sequence[str]) -> str:
        """The whole prompt as text, special tokens included."""
        return self.frame.before + message(history, pool, self.score_digits) + self.frame.after

    def prompt(self, space: SearchSpace, history: History, pool: Pool) -> list[int]:
        """Token ids of the prompt, in the tokenizer's canonical split."""
        return self._encode(self.render(history, pool.codes))

    def answers(self, space: SearchSpace, codes: Sequence[str]) -> list[list[int]]:
        """Each candidate's canonical tokens; tokenised once in the life of the codec."""
        new = [code for code in dict.fromkeys(codes) if code not in self._answers]
        encoded = self._tokenizer.encode_batch(new, add_special_tokens=False)
        self._answers.update((code, item.ids) for code, item in zip(new, encoded, strict=True))
        return [self._answers[code] for code in codes]

    def longest_prompt(self, space: SearchSpace, pool_size: int) -> int:
        """Tokens of the longest question that a search in a space asks, answer included.

        That is one behind a full history, of a pool of ``pool_size`` candidates or of as many as one prompt holds.
        """
        pool_size = min(pool_size, self.max_pool)
        codes = space.sample(np.random.default_rng(0), HISTORY_CAP + pool_size)
        pool, seen = codes[:pool_size], codes[pool_size:]
        scores = (1.0, 0.0, *[1 / 3] * len(seen))[: len(seen)]  # a third has as many decimals as are shown
        prompt = self._encode(self.render(History(tuple(seen), scores), pool))
        return len(prompt) + max(map(len, self.answers(space, pool)))

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids
