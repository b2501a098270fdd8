"""The spaces of the paper, ready to use: each a YAML file and a module that says what its codes mean."""
