"""What is used of transformers beside its documented interface. Tested with transformers 5.19.0.

vLLM 0.32 allows 5.16.1 to 5.19. Of huggingface_hub one constant is used, tested with 2.4.0. ``cache`` is a
``DynamicCache``. Whatever is missing in another version raises ``AttributeError``, ``ImportError`` or ``TypeError`` at
its use; ``tests/test_internals.py`` tries all of it.
"""

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def empty_cache(config: Any) -> Any:
    """A cache of keys and values with a layer of its kind for each of the model's."""
    from transformers import DynamicCache

    return DynamicCache(config=config)


def keeps_all_keys(cache: Any) -> bool:
    """Whether each layer keeps all keys and values.

    A layer that sees a window only, or keeps a state in their place, takes no mask of ours.
    """
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in cache.layers)


def fork(cache: Any) -> Any:
    """A cache that grows without changing this one; the tensors, which are replaced when they grow, are shared."""
    forked = copy.copy(cache)
    forked.layers = [copy.copy(layer) for layer in cache.layers]
    return forked


def caps_attention(config: Any) -> bool:
    """Whether the model caps attention scores (Gemma 2), which transformers' preferred attention silently omits."""
    return getattr(config, "attn_logit_softcapping", None) is not None


@contextmanager
def scaled_states(model: Any, factor: float) -> Iterator[None]:
    """A block in which the last hidden states of the model below the head are longer by a factor."""

    def longer(module: Any, given: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state * factor
        return output

    hook = model.base_model.register_forward_hook(longer)
    try:
        yield
    finally:
        hook.remove()


def last_logits(model: Any, places: Any, **given: Any) -> Any:
    """Logits ``[batch, len(places), vocabulary]`` at these places of the sequence alone."""
    return model(**given, logits_to_keep=places).logits


@contextmanager
def without_bars() -> Iterator[None]:
    """Without transformers' progress bars, where no terminal would show them."""
    from transformers.utils import logging

    if sys.stderr.isatty():
        yield
        return

    def none(_: Callable[..., Any], items: Any, options: Any) -> Any:
        return logging.EmptyTqdm(*items, **options)

    before = logging.set_tqdm_hook(none)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


@contextmanager
def offline_hub() -> Iterator[None]:
    """Hugging Face's library reads its variable once, when it is imported: so under the environment of the host."""
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
