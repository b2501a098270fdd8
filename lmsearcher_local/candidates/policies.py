"""Which policies make pools. A new one is a line here: its name, and ``module:function``, imported when used.

A policy is a function ``(surrogate, rng, size, exclude) -> pool``; see ``pools.py``.
"""

from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmsearcher_local.candidates.pools import Policy

POLICIES = {
    "surrogate": "lmsearcher_local.candidates.pools:promising",
    "local": "lmsearcher_local.candidates.pools:local",
    "paper": "lmsearcher_local.candidates.pools:uniform",
}


def policy(name: str) -> "Policy":
    """The policy of that name."""
    found: Policy = resolve_name(POLICIES[name])
    return found
