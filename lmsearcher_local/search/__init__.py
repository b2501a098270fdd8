"""Ask and tell: one search, its Optuna sampler, large pools."""
