"""Offline LM-Searcher: a language model inside your process that searches discrete design spaces."""
