"""Sparring finds out how robust a model really is, and makes it more robust."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sparring.evaluate import audit, examine
    from sparring.evaluate.defended import audit_defence
    from sparring.hardening import train
    from sparring.models.loading import adopt, load
    from sparring.threats import l0, l1, l2, linf

_WHERE = {
    "adopt": "sparring.models.loading",
    "audit": "sparring.evaluate",
    "audit_defence": "sparring.evaluate.defended",
    "examine": "sparring.evaluate",
    "l0": "sparring.threats",
    "l1": "sparring.threats",
    "l2": "sparring.threats",
    "linf": "sparring.threats",
    "load": "sparring.models.loading",
    "train": "sparring.hardening",
}

__all__ = ["__version__", "adopt", "audit", "audit_defence", "examine", "l0", "l1", "l2", "linf", "load", "train"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `import sparring` alone stays light."""
    import importlib

    if name not in _WHERE:
        raise AttributeError(f"module 'sparring' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
