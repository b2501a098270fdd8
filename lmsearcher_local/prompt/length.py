"""How long the prompts of a search become."""

import numpy as np

from lmsearcher_local.history import HISTORY_CAP, History
from lmsearcher_local.prompt.base import Codec
from lmsearcher_local.space import SearchSpace


def longest_prompt(codec: Codec, space: SearchSpace, pool_size: int) -> int:
    """Tokens of the longest question that a search in a space asks, answer included.

    That is one behind a full history, of a pool of ``pool_size`` candidates or of as many as one prompt holds.

    Raises:
        PromptError: the codec cannot show this space.
    """
    pool_size = min(pool_size, codec.max_pool)
    codes = space.sample(np.random.default_rng(0), HISTORY_CAP + pool_size)
    pool, seen = codes[:pool_size], codes[pool_size:]
    scores = (1.0, 0.0, *[1 / 3] * len(seen))[: len(seen)]  # a third has as many decimals as are shown
    # History and pool apart, because no token holds of both, and a pool behind a history costs a surrogate.
    with_history, with_pool, bare = (
        len(codec.prompt(space, *parts))
        for parts in ((History(tuple(seen), scores), []), (History(), pool), (History(), []))
    )
    return with_history + with_pool - bare + max(map(len, codec.answers(space, pool)))
