"""All messages of errors and warnings of the package, as a list in `messages.txt`, so that a change of wording is seen in review.

After a change of wording: `python tests/test_messages.py`, and read the difference.
"""

import ast
from pathlib import Path

HOME = Path(__file__).parents[1]
SNAPSHOT = Path(__file__).with_name("messages.txt")


def messages():
    """Each message of a `raise` or `warnings.warn`, by file; what is computed stands in braces."""
    for path in sorted((HOME / "flaxfit").rglob("*.py")):
        found = []
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) else node if isinstance(node, ast.Call) else None
            if not isinstance(call, ast.Call) or not call.args:
                continue
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if (isinstance(node, ast.Raise) or name == "warn") and (said := _text(call.args[0])):
                found.append((call.lineno, name, said))
        if found:
            yield str(path.relative_to(HOME)), [f"  {name}: {said}" for _, name, said in sorted(found)]


def _text(node):
    """The text of a string or f-string; None for what is not written there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return " ".join(node.value.split())
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else _name(part.value) for part in node.values]
        return " ".join("".join(parts).split())
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return "".join(filter(None, map(_text, (node.left, node.right)))) or None
    return None


def _name(node):
    """A variable in braces; three dots for what is computed, whose text differs between versions of Python."""
    return f"{{{ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else '...'}}}"


def listed():
    return "\n".join("\n".join([path, *lines]) for path, lines in messages()) + "\n"


def test_messages_are_those_of_the_list():
    assert listed() == SNAPSHOT.read_text(encoding="utf-8")


def test_a_message_is_at_most_three_lines():
    long = [line for _, lines in messages() for line in lines if len(line) > 3 * 140]
    assert long == []


if __name__ == "__main__":
    SNAPSHOT.write_text(listed(), encoding="utf-8")
