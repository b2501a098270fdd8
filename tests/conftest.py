"""Shared real parts: Llama-3.1-shaped checkpoints with random weights and the real Llama 3 tokenizer."""

from pathlib import Path

import pytest
import torch

from bench import llama


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 checkpoint in the layout of the published one."""
    folder = tmp_path_factory.mktemp("llama")
    llama.write_tokenizer(folder)
    llama.write_model(folder)
    return folder


@pytest.fixture(scope="session")
def llama_bfloat16(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> Path:
    """The same in bfloat16."""
    folder = tmp_path_factory.mktemp("llama-bfloat16")
    (folder / "tokenizer.json").symlink_to(llama_folder / "tokenizer.json")
    llama.write_model(folder, torch.bfloat16)
    return folder
