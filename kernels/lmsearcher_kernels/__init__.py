"""A kernel that never makes its large product: Triton where the tensors are on a GPU, plain torch elsewhere."""

from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType

from torch import Tensor


def restricted_head(hidden: Tensor, weight: Tensor, questions: Sequence[Sequence[int]]) -> Tensor:
    """Log-softmax of ``hidden @ weight.T`` over each row's own token ids; ``[N, V]`` is never made.

    Args:
        hidden: ``[N, H]``, any floating dtype; products are summed in float32.
        weight: ``[V, H]``, the rows of a language model's head.
        questions: for each row of ``hidden`` token ids in ``[0, V)``, any number of them.

    Returns:
        float32 of shape ``[sum of the numbers of ids]``, row after row.

    Raises:
        ValueError: shapes do not fit, or an id is out of range.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1] or len(questions) != len(hidden):
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)} and {len(questions)} questions do not fit"
        )
    for ids in questions:
        if ids and not (min(ids) >= 0 and max(ids) < len(weight)):
            raise ValueError(f"token ids from {min(ids)} to {max(ids)} asked of a head of {len(weight)} rows")
    return _backend(hidden).restricted_head(hidden, weight, questions)


def _backend(tensor: Tensor) -> ModuleType:
    if tensor.is_cuda and find_spec("triton"):
        from . import gpu

        return gpu
    from . import reference

    return reference
