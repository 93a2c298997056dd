"""The type check: which expressions may stand where, and that selectors select something."""

from __future__ import annotations

from dataclasses import replace

from .errors import ParseError
from .literals import quote
from .nodes import (
    COMPARISONS,
    PARAMETER_AGGREGATORS,
    SET_OPERATORS,
    Aggregate,
    Binary,
    Call,
    Cardinality,
    Expr,
    MatrixSelector,
    NumberLiteral,
    Paren,
    StringLiteral,
    Subquery,
    Unary,
    ValueType,
    VectorMatching,
    VectorSelector,
    spine,
)

_OPERANDS = (ValueType.SCALAR, ValueType.VECTOR)


def check(expr: Expr, text: str) -> Expr:
    """
    Check the types of a whole tree and settle how vectors match.

    Returns:
        The tree, with ``matching`` only where both operands are vectors, and with set operators
        matching many to many.

    Raises:
        ParseError: The first mistake, reading from the innermost left.
    """
    return _Checker(text).visit(expr)


class _Checker:
    def __init__(self, text: str) -> None:
        self.text = text

    def fail(self, node: Expr, message: str) -> None:
        raise ParseError(message, node.span.start, self.text)

    def expect(self, node: Expr, wanted: ValueType, context: str) -> Expr:
        node = self.visit(node)
        if node.type is not wanted:
            message = f"expected type {wanted.documented} in {context}"
            self.fail(node, f"{message}, got {node.type.documented}")
        return node

    def visit(self, expr: Expr) -> Expr:
        match expr:
            case Binary():
                first, chain = spine(expr)
                lhs = self.visit(first)
                # Carried along: a chain's type is found at its far end.
                kind = lhs.type
                for node in chain:
                    lhs = self.binary(node, lhs, kind)
                    if lhs.rhs.type is not ValueType.SCALAR:
                        kind = ValueType.VECTOR
                return lhs
            case Call():
                return self.call(expr)
            case Aggregate():
                return self.aggregate(expr)
            case Paren():
                return replace(expr, expr=self.visit(expr.expr))
            case Unary():
                inner = self.visit(expr.expr)
                if inner.type not in _OPERANDS:
                    self.fail(
                        expr,
                        "unary expression only allowed on expressions of type scalar or instant "
                        f"vector, got {quote(inner.type.documented)}",
                    )
                return replace(expr, expr=inner)
            case Subquery():
                inner = self.visit(expr.expr)
                if inner.type is not ValueType.VECTOR:
                    self.fail(
                        expr,
                        f"subquery is only allowed on instant vector, got {inner.type} instead",
                    )
                return replace(expr, expr=inner)
            case MatrixSelector():
                self.selector(expr.vector)
                return expr
            case VectorSelector():
                if expr.extension == "anchored":
                    self.fail(expr, "anchored modifier can only be used with range vectors")
                self.selector(expr)
                return expr
            case NumberLiteral() | StringLiteral():
                return expr

    def selector(self, node: VectorSelector) -> None:
        if not node.name:
            if all(matcher.matches("") for matcher in node.matchers):
                self.fail(node, "vector selector must contain at least one non-empty matcher")
            return
        for matcher in node.matchers[:-1]:
            if matcher.name == "__name__":
                twice = f"{quote(node.name)} or {quote(matcher.value)}"
                self.fail(node, f"metric name must not be set twice: {twice}")

    def aggregate(self, node: Aggregate) -> Aggregate:
        inner = self.expect(node.expr, ValueType.VECTOR, "aggregation expression")
        param = node.param
        if param is not None:
            assert node.op in PARAMETER_AGGREGATORS
            wanted = ValueType.STRING if node.op == "count_values" else ValueType.SCALAR
            param = self.expect(param, wanted, "aggregation parameter")
        return replace(node, expr=inner, param=param)

    def binary(self, node: Binary, lhs: Expr, left: ValueType) -> Binary:
        """Check one operator, whose left operand has been checked already and has type ``left``."""
        rhs = self.visit(node.rhs)
        right = rhs.type
        matching, op = node.matching, node.op
        assert matching is not None, "the parser always sets it"
        scalars = left is ValueType.SCALAR and right is ValueType.SCALAR
        vectors = left is ValueType.VECTOR and right is ValueType.VECTOR
        if node.return_bool and op not in COMPARISONS:
            self.fail_at_operator(node, "bool modifier can only be used on comparison operators")
        if op in COMPARISONS and not node.return_bool and scalars:
            self.fail_at_operator(node, "comparisons between scalars must use BOOL modifier")
        if op in SET_OPERATORS and matching.cardinality is Cardinality.ONE_TO_ONE:
            matching = replace(matching, cardinality=Cardinality.MANY_TO_MANY)
        self.labels_once(node, matching)
        for operand, kind in ((lhs, left), (rhs, right)):
            if kind not in _OPERANDS:
                self.fail(
                    operand, "binary expression must contain only scalar and instant vector types"
                )
        if not vectors:
            if matching.labels:
                self.fail(lhs, "vector matching only allowed between instant vectors")
            if op in SET_OPERATORS:
                self.fail(lhs, f"set operator {quote(op)} not allowed in binary scalar expression")
            if matching.fill_left is not None or matching.fill_right is not None:
                self.fail(lhs, "filling in missing series only allowed between instant vectors")
            return replace(node, lhs=lhs, rhs=rhs, matching=None)
        if op in SET_OPERATORS:
            if matching.cardinality is not Cardinality.MANY_TO_MANY:
                self.fail(lhs, f"no grouping allowed for {quote(op)} operation")
            if matching.fill_left is not None or matching.fill_right is not None:
                self.fail(lhs, "filling in missing series not allowed for set operators")
        return replace(node, lhs=lhs, rhs=rhs, matching=matching)

    def labels_once(self, node: Binary, matching: VectorMatching) -> None:
        for label in matching.labels:
            if matching.on and label in matching.include:
                self.fail_at_operator(
                    node, f"label {quote(label)} must not occur in ON and GROUP clause at once"
                )

    def fail_at_operator(self, node: Binary, message: str) -> None:
        raise ParseError(message, node.op_span.start, self.text)

    def call(self, node: Call) -> Call:
        self.arity(node)
        context = f"call to function {quote(node.func.name)}"
        args: list[Expr] = []
        for index, arg in enumerate(node.args):
            wanted = node.func.arg_types[min(index, len(node.func.arg_types) - 1)]
            if node.func.name == "info" and index == 1:
                args.append(self.label_selector(arg, context))
            else:
                args.append(self.expect(arg, wanted, context))
        self.extensions(node, args)
        return replace(node, args=tuple(args))

    def arity(self, node: Call) -> None:
        func, got = node.func, len(node.args)
        name = quote(func.name)
        wanted = len(func.arg_types)
        if func.variadic == 0:
            if got != wanted:
                self.fail(node, f"expected {wanted} argument(s) in call to {name}, got {got}")
            return
        least, most = wanted - 1, wanted - 1 + func.variadic
        if got < least:
            self.fail(node, f"expected at least {least} argument(s) in call to {name}, got {got}")
        if func.variadic > 0 and got > most:
            self.fail(node, f"expected at most {most} argument(s) in call to {name}, got {got}")

    def label_selector(self, arg: Expr, context: str) -> Expr:
        """Check the second argument of ``info``: matchers only, which may all match emptiness."""
        if not isinstance(arg, VectorSelector):
            wanted = ValueType.VECTOR.documented
            self.fail(arg, f"expected type {wanted} in {context}, got {arg.type.documented}")
        elif arg.name:
            self.fail(arg, "expected label selectors only, got vector selector instead")
        return arg

    def extensions(self, node: Call, args: list[Expr]) -> None:
        """Refuse ``anchored`` and ``smoothed`` where a function makes nothing of them."""
        for arg in args:
            extension = arg.vector.extension if isinstance(arg, MatrixSelector) else ""
            if not extension:
                continue
            allowed = EXTENDED_FUNCTIONS[extension]
            if node.func.name not in allowed:
                self.fail(
                    node,
                    f"{extension} modifier can only be used with: {', '.join(allowed)}"
                    f" - not with {node.func.name}",
                )


#: The functions that know each extension of range selectors.
EXTENDED_FUNCTIONS = {
    "anchored": ("changes", "delta", "increase", "rate", "resets"),
    "smoothed": ("delta", "increase", "rate"),
}
