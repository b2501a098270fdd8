"""From a checkpoint folder to a distribution over a pool."""
