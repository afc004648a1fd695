"""Filters: translate a SQL WHERE condition over metadata columns to an Arrow expression.

sqlglot parses the text. The translation has an allowlist of nodes and rejects all others, so nothing is evaluated but
an Arrow expression over the columns of the index.

Logic is three-valued, as in SQL: a comparison with a missing value is NULL, and a document matches only if the whole
condition is true.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.compute as pc
import sqlglot
from sqlglot import expressions as sql

from raycol.errors import InputError
from raycol.index.format.columns import ARROW_TYPES, Columns, ColumnType

MAX_FILTER_LENGTH = 10_000
_MAX_DEPTH = 100

_COMPARISONS: dict[type[sql.Expression], Callable[[Any, Any], pc.Expression]] = {
    sql.EQ: lambda left, right: left == right,
    sql.NEQ: lambda left, right: left != right,
    sql.LT: lambda left, right: left < right,
    sql.LTE: lambda left, right: left <= right,
    sql.GT: lambda left, right: left > right,
    sql.GTE: lambda left, right: left >= right,
}
_MIRRORED: dict[type[sql.Expression], type[sql.Expression]] = {
    sql.EQ: sql.EQ,
    sql.NEQ: sql.NEQ,
    sql.LT: sql.GT,
    sql.LTE: sql.GTE,
    sql.GT: sql.LT,
    sql.GTE: sql.LTE,
}

# The allowlist: each node of a condition with the arguments that the translation understands.
_BINARY = (sql.And, sql.Or, sql.Is, sql.Like, sql.ILike, *_COMPARISONS)
_UNARY = (sql.Paren, sql.Not, sql.Boolean, sql.Column)
_PARTS: dict[type[sql.Expression], set[str]] = {
    **{kind: {"this", "expression"} for kind in _BINARY},
    **{kind: {"this"} for kind in _UNARY},
    sql.Between: {"this", "low", "high"},
    sql.In: {"this", "expressions"},
}
_INSTANTS = (sql.DataType.Type.DATE, sql.DataType.Type.TIMESTAMP)


# Operators by the name of sqlglot's class, if that is not the operator itself.
_OPERATORS = {"EQ": "=", "NEQ": "<>", "LT": "<", "LTE": "<=", "GT": ">", "GTE": ">="}


class Filter(NamedTuple):
    """A condition as an Arrow expression, the columns that it reads, and whether it has LIKE patterns."""

    expression: pc.Expression
    columns: tuple[str, ...]
    patterns: bool


def parse_filter(text: str, columns: Columns) -> Filter:
    """Parse and validate a filter.

    Allowed: columns compared with literals (`=`, `<>`, `!=`, `<`, `<=`, `>`, `>=`, IN, BETWEEN, LIKE, ILIKE, IS NULL),
    a bool column alone, AND, OR, NOT and parentheses. Dates and timestamps are ISO 8601 strings.

    Raises:
        InputError: the text does not parse, names an unknown column, or contains anything else.
    """
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"filter {text!r:.60}: expected a SQL condition, such as lang = 'en' AND year >= 2020")
    if len(text) > MAX_FILTER_LENGTH:
        raise InputError(f"filter has {len(text)} characters; expected at most {MAX_FILTER_LENGTH}")
    try:
        tokens = sqlglot.tokenize(text)
        _check_depth(text, tokens)
        tree = sqlglot.Parser().parse_into(sql.Condition, tokens, text)
    except (sqlglot.errors.SqlglotError, RecursionError) as error:
        raise InputError(f"filter {_short(text)}: not a SQL condition ({_reason(error)})") from None
    if len(tree) != 1 or tree[0] is None:
        raise InputError(f"filter {_short(text)}: expected one SQL condition")
    try:
        translation = _Translation(text, columns)
        expression = translation.condition(cast(sql.Expression, tree[0]))
    except RecursionError:
        raise InputError(f"filter {_short(text)}: nested too deeply") from None
    return Filter(expression, tuple(translation.used), translation.patterns)


def _check_depth(text: str, tokens: list[Any]) -> None:
    depth = 0
    for token in tokens:
        depth += {"L_PAREN": 1, "R_PAREN": -1}.get(token.token_type.name, 0)
        if depth > _MAX_DEPTH:
            raise InputError(f"filter {_short(text)}: parentheses nested more than {_MAX_DEPTH} deep")


class _Translation:
    def __init__(self, text: str, columns: Columns) -> None:
        self.text = text
        self.columns = columns
        self.used: dict[str, None] = {}  # an ordered set
        self.patterns = False

    def condition(self, node: sql.Expression) -> pc.Expression:
        """Translate a boolean node."""
        parts = {name for name, value in node.args.items() if value} - {"negate"}
        if parts - _PARTS.get(type(node), set()):
            raise self.refused(node, "not allowed in a filter")
        condition = self.positive(node)
        return ~condition if node.args.get("negate") else condition

    def positive(self, node: sql.Expression) -> pc.Expression:
        """Translate a boolean node, ignoring its `negate` argument."""
        kind = type(node)
        if kind is sql.Paren:
            return self.condition(node.this)
        if kind is sql.And:
            return self._balanced(node, sql.And, lambda left, right: left & right)
        if kind is sql.Or:
            return self._balanced(node, sql.Or, lambda left, right: left | right)
        if kind is sql.Not:
            return ~self.condition(node.this)
        if kind is sql.Boolean:
            return pc.scalar(bool(node.this))
        if kind is sql.Column:
            name, type_ = self.column(node)
            if type_ != "bool":
                raise self.refused(node, f"a {type_} column is not a condition; compare it with a literal")
            return pc.field(name)
        if kind in _COMPARISONS:
            return self.comparison(node)
        if kind is sql.Between:
            name, type_ = self.column(node.this)
            low, high = (self.literal(node.args[part], name, type_) for part in ("low", "high"))
            return (pc.field(name) >= low) & (pc.field(name) <= high)
        if kind is sql.In:
            return self.membership(node)
        if kind in (sql.Like, sql.ILike):
            return self.like(node)
        if kind is sql.Is and type(node.expression) is sql.Null:
            return pc.field(self.column(node.this)[0]).is_null()
        raise self.refused(node, "not allowed here")

    def comparison(self, node: sql.Expression) -> pc.Expression:
        left, right, kind = node.this, node.expression, type(node)
        if type(_bare(left)) is not sql.Column:
            left, right, kind = right, left, _MIRRORED[kind]
        name, type_ = self.column(left)
        return _COMPARISONS[kind](pc.field(name), self.literal(right, name, type_))

    def membership(self, node: sql.Expression) -> pc.Expression:
        name, type_ = self.column(node.this)
        values = [self.literal(value, name, type_) for value in node.expressions]
        if not values:
            raise self.refused(node, "an empty list")
        arrow_type = pa.float64() if any(isinstance(value, float) for value in values) else ARROW_TYPES[type_]
        field = pc.field(name)
        if arrow_type != ARROW_TYPES[type_]:
            field = field.cast(arrow_type, safe=False)
        # Arrow's is_in is false for a missing value; SQL's IN is NULL.
        missing = pa.scalar(None, pa.bool_())
        return pc.if_else(pc.field(name).is_valid(), field.isin(pa.array(values, arrow_type)), missing)

    def like(self, node: sql.Expression) -> pc.Expression:
        name, type_ = self.column(node.this)
        pattern = self.literal(node.expression, name, type_)
        if type_ != "string":
            raise self.refused(node, f"{name} is a {type_} column; LIKE needs a string column")
        self.patterns = True
        return pc.match_like(pc.field(name), pattern, ignore_case=type(node) is sql.ILike)

    def column(self, node: sql.Expression) -> tuple[str, ColumnType]:
        node = _bare(node)
        if type(node) is not sql.Column or any(node.args.get(part) for part in ("table", "db", "catalog")):
            raise self.refused(node, "expected a column name")
        name = node.name
        if name not in self.columns:
            known = f"the columns are {', '.join(self.columns)}" if self.columns else "this index has none"
            raise InputError(f"filter {_short(self.text)}: no column {_short(name)}; {known}")
        self.used[name] = None
        return name, self.columns[name]

    def literal(self, node: sql.Expression, column: str, type_: ColumnType) -> Any:
        """Return the value of a literal, in the column's type."""
        node, sign = _bare(node), 1
        if type(node) is sql.Neg:
            node, sign = _bare(node.this), -1
            if type(node) is not sql.Literal or node.is_string:
                raise self.refused(node, "expected a number after the minus")
        if type(node) is sql.Cast and type_ in ("date", "timestamp") and node.to.this in _INSTANTS:
            node = node.this  # DATE '2020-01-01'
        if type(node) is sql.Boolean and type_ == "bool":
            return bool(node.this)
        if type(node) is sql.Literal and node.is_string and type_ in ("string", "date", "timestamp"):
            return self.instant(node.this, column, type_) if type_ != "string" else str(node.this)
        if type(node) is sql.Literal and not node.is_string and type_ in ("int64", "double"):
            return self.number(node.this, column, type_, sign)
        raise self.refused(node, f"expected a literal of type {type_}, the type of {column}")

    def number(self, text: str, column: str, type_: ColumnType, sign: int) -> int | float:
        try:
            value = sign * int(text)
        except ValueError:
            try:
                decimal = sign * float(text)
            except ValueError:
                decimal = math.inf
            if not math.isfinite(decimal):
                raise InputError(f"filter {_short(self.text)}: {_short(text)} is not a finite number") from None
            return decimal
        if type_ == "double":
            return float(value)
        if not -(2**63) <= value < 2**63:
            raise InputError(f"filter {_short(self.text)}: {_short(text)} does not fit in column {column}, an int64")
        return value

    def instant(self, text: str, column: str, type_: ColumnType) -> datetime.date:
        try:
            if type_ == "date":
                return datetime.date.fromisoformat(text)
            instant = datetime.datetime.fromisoformat(text)
        except ValueError:
            raise InputError(
                f"filter {_short(self.text)}: {text!r} is not a {type_}, the type of {column}; "
                f"expected ISO 8601, such as {'2020-01-31' if type_ == 'date' else '2020-01-31T12:00:00Z'}"
            ) from None
        return instant if instant.tzinfo else instant.replace(tzinfo=datetime.UTC)

    def refused(self, node: sql.Expression, why: str) -> InputError:
        return InputError(f"filter {_short(self.text)}: {_short(node.sql())}: {why}")

    def _balanced(
        self,
        node: sql.Expression,
        kind: type[sql.Expression],
        join: Callable[[pc.Expression, pc.Expression], pc.Expression],
    ) -> pc.Expression:
        """Translate a chain of AND or OR to a balanced tree, whose depth in Arrow is logarithmic."""
        parts, pending = [], [node]
        while pending:
            part = pending.pop()
            if type(part) is kind:
                pending += [part.expression, part.this]
            else:
                parts.append(self.condition(part))
        while len(parts) > 1:
            paired = [join(left, right) for left, right in zip(parts[::2], parts[1::2], strict=False)]
            parts = paired + parts[len(paired) * 2 :]
        return parts[0]


def _bare(node: sql.Expression) -> sql.Expression:
    while type(node) is sql.Paren:
        node = node.this
    return node


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    errors = getattr(error, "errors", None)
    reason: str = errors[0]["description"] if errors else str(error).splitlines()[0]
    # sqlglot names its own class: "Required keyword: 'expression' missing for <class '...EQ'>".
    missing = re.fullmatch(r"Required keyword: '\w+' missing for <class '.*\.(\w+)'>", reason)
    return f"an operand of {_OPERATORS.get(missing[1], missing[1].upper())} is missing" if missing else reason
