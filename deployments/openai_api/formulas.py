"""Formulas over named numbers, such as `0.5 * queue + max(urgent, 0.2)`: arithmetic and nothing else. Pure."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.utils.translation import gettext as _

LONGEST: Final = 500
_OPERATORS: Final[Mapping[type[ast.AST], Callable[..., Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}


class BadFormula(ValueError):
    """A text that is no formula; the message is a sentence for people."""


@dataclass(frozen=True)
class Formula:
    """A formula that was looked at: every node of it is a number, a known name, an operator or a known function."""

    root: ast.expr

    @classmethod
    def read(cls, text: str, names: Collection[str]) -> Formula:
        """Return a formula over these names; `^` is a power, too. Raises: BadFormula."""
        if len(text) > LONGEST:
            raise BadFormula(_("A formula has up to 500 characters."))
        try:
            root = ast.parse(text.strip().replace("^", "**"), mode="eval").body
            _check(root, names)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            if isinstance(error, BadFormula):
                raise
            raise BadFormula(_("This is no formula: %(text)s") % {"text": text[:100]}) from None
        return cls(root)

    def value(self, numbers: Mapping[str, float]) -> float:
        """Return the value of the formula. Raises: ArithmeticError if it has none."""
        try:
            found = _value(self.root, numbers)
        except (ValueError, TypeError):  # the root of a negative number, a function of too many
            raise ArithmeticError from None
        if isinstance(found, complex) or not math.isfinite(found):
            raise ArithmeticError
        return float(found)


def _check(node: ast.expr, names: Collection[str]) -> None:
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return
        case ast.Name(id=name) if name in names:
            return
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            _check(left, names)
            _check(right, names)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            _check(operand, names)
        case ast.Call(func=ast.Name(id=name), args=[_, *_] as args, keywords=[]) if name in FUNCTIONS:
            for one in args:
                _check(one, names)
        case ast.Name(id=name):
            raise BadFormula(_unknown(name))
        case _:
            raise BadFormula(_no_arithmetic())


def _unknown(name: str) -> str:
    return _("The formula has an unknown name: %(name)s") % {"name": name[:60]}


def _no_arithmetic() -> str:
    return _("A formula has names of graders, numbers, + - * / ^ and %(known)s.") % {"known": ", ".join(FUNCTIONS)}


def _value(node: ast.AST, numbers: Mapping[str, float]) -> Any:
    match node:
        case ast.Constant(value=(int() | float()) as number):
            return float(number)  # whole numbers would grow without end
        case ast.Name(id=name):
            return numbers[name]
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left, numbers), _value(right, numbers))
        case ast.UnaryOp(op=op, operand=operand):
            return _OPERATORS[type(op)](_value(operand, numbers))
        case ast.Call(func=ast.Name(id=name), args=args):
            found = FUNCTIONS[name](*(_value(one, numbers) for one in args))
            return found if isinstance(found, complex) else float(found)
    raise AssertionError("looked at before")
