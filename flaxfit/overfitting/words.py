"""Metrics and fixes as they stand in the sentences of an answer."""

from __future__ import annotations

from flaxfit.overfitting.fixes import Fix


def a(metric: str) -> str:
    """A metric with its article."""
    return f"an {metric}" if metric[:1] in "aeiouRMA" and not metric.startswith("u") else f"a {metric}"


def article(fix: Fix) -> str:
    """A fix as it appears in a sentence."""
    names = {
        "smaller network": "a smaller network",
        "larger network": "a larger network",
        "L2 penalty": "an L2 penalty",
        "L1 penalty": "an L1 penalty",
    }
    kind = names.get(fix.kind, "the baseline" if fix.kind == "baseline" else fix.kind)
    if fix.strength[:1] in ("", "("):
        return f"{kind} {fix.strength}".strip()
    return f"{kind} of {fix.strength.replace(', ', ' and ')}"
