"""What runs in the kernel of a notebook that is executed, put there as text: it keeps the values that asserts compare
and those of the numbers in the prose."""

import ast
import math
import re
from collections.abc import Callable
from typing import Any

MIME = "application/vnd.bigmodel.evidence+json"
MANY = 32


def plain(value: Any) -> Any:
    """Return `value` as JSON can hold it: a number, a word (a path of a machine is none), a short list of these.

    Raises:
        TypeError: it is something else.
    """
    if (
        value is None
        or isinstance(value, bool)
        or (isinstance(value, str) and re.fullmatch(r"[^/\\]{,80}", value))
    ):
        return value
    if isinstance(value, int | float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, list | tuple | set | frozenset) and len(value) <= MANY:
        parts = [plain(part) for part in value]
        return sorted(parts, key=repr) if isinstance(value, set | frozenset) else parts
    if hasattr(value, "tolist") and math.prod(value.shape) <= MANY:
        return plain(value.tolist())
    raise TypeError(type(value).__name__)


def over_operands(test: ast.expr, change: Callable[[ast.expr], ast.expr]) -> ast.expr:
    """Apply `change` to the operands of a test: what it compares, and what it takes as true or false."""
    if isinstance(test, ast.BoolOp):
        test.values = [over_operands(part, change) for part in test.values]
    elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test.operand = over_operands(test.operand, change)
    elif isinstance(test, ast.Compare):
        test.left, test.comparators = change(test.left), [change(part) for part in test.comparators]
    else:
        return change(test)
    return test


def is_literal(node: ast.expr) -> bool:
    """Say whether the value of `node` stands in the text itself."""
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def text_of(source: str, node: ast.expr) -> str:
    """Return how `node` is written in `source`, on one line."""
    return " ".join((ast.get_source_segment(source, node) or ast.unparse(node)).split())


class Witness(ast.NodeTransformer):
    """Sees the operands of each assert that a cell runs, outside of functions, and the values of bound numbers."""

    def __init__(self, shell: Any) -> None:
        self.shell, self.source = shell, ""
        self.operands: dict[str, dict[str, Any]] = {}
        self.numbers: dict[str, dict[str, Any]] = {}
        shell.events.register("pre_run_cell", self.start)
        shell.ast_transformers.append(self)

    def start(self, info: Any) -> None:
        """Remember the text of the cell that is about to run."""
        self.source = info.raw_cell

    def skip(self, node: ast.AST) -> ast.AST:
        """Leave a function or class as it is."""
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = visit_Lambda = skip  # noqa: N815

    def visit_Assert(self, node: ast.Assert) -> ast.Assert:
        """Let each operand of an assert be seen."""
        node.test = over_operands(node.test, self.seen)
        return ast.fix_missing_locations(node)

    def seen(self, node: ast.expr) -> ast.expr:
        """Return the call that keeps the value of `node` and gives it back."""
        if is_literal(node):
            return node
        text = ast.Constant(text_of(self.source, node))
        call = ast.Call(ast.Name("_witness", ast.Load()), [text, node], [])
        return ast.copy_location(call, node)

    def __call__(self, text: str, value: Any) -> Any:
        """Keep a value, or of which kind it is."""
        try:
            kept = plain(value)
        except TypeError as error:
            kept = {"kind": str(error)}
        self.operands.setdefault(self.source, {})[text] = kept
        return value

    def measure(self, cell: str, expressions: list[str]) -> None:
        """Keep the values of the numbers in the prose of a cell."""
        kept = self.numbers.setdefault(cell, {})
        for text in expressions:
            try:
                kept[text] = plain(eval(text, self.shell.user_ns))
            except Exception as error:
                raise ValueError(f"cell {cell} binds a number to {text!r}, which fails: {error!r}") from None

    def show(self) -> None:
        """Display what was seen."""
        data = {"operands": self.operands, "numbers": self.numbers}
        self.shell.display_pub.publish({MIME: data, "text/plain": ""})
