"""Design spaces: parameters, options, NCode, sampling, files of codes."""
