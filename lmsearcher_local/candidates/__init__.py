"""From a history to a pool: the surrogate and what it proposes."""
