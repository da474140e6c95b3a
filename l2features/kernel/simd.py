"""Vectors of 32 integers in compiled functions, for loops that numba does not vectorise.

LLVM compiles these vectors to the processor's vector instructions. They exist in local variables only. How
much time they save, and why numba is pinned: docs/decisions/simd.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba.extending
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.core.datamodel import models
from numba.extending import register_model

LANES = 32
"""Number of elements in a vector."""
_INDEX = ir.IntType(32)


def intrinsic(function: Callable[..., Any]) -> Any:
    """Apply numba's decorator ``intrinsic``, which has no type annotations."""
    return numba.extending.intrinsic(function)


class Vector(types.Type):
    """The numba type of a vector of LANES integers."""

    def __init__(self, element: types.Type) -> None:
        self.element = element
        super().__init__(name=f"Vector({element})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, ir.VectorType(manager[kind.element].get_value_type(), LANES))


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, kind: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def _spread(builder: Any, value: Any) -> Any:
    kind = ir.VectorType(value.type, LANES)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_INDEX, 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_INDEX, LANES), [0] * LANES))


@intrinsic
def load(typing_context: Any, array: Any, index: Any) -> Any:
    """Return the LANES elements of a one-dimensional array that start at an index."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(signature.return_type)
        address = _address(context, builder, array, arguments[0], arguments[1], kind)
        return builder.load(address, align=array.dtype.bitwidth // 8)

    return Vector(array.dtype)(array, types.int64), generate


@intrinsic
def store(typing_context: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write the LANES elements of a vector to a one-dimensional array, starting at an index."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_value, index_value, value = arguments
        address = _address(context, builder, array, array_value, index_value, value.type)
        builder.store(value, address, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, vector), generate


@intrinsic
def splat(typing_context: Any, array: Any, value: Any) -> Any:
    """Return a vector whose elements all are ``value``, in the integer type of ``array``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = context.cast(builder, arguments[1], value, types.int64)
        kind = context.get_value_type(array.dtype)
        return _spread(builder, wide if kind.width == 64 else builder.trunc(wide, kind))

    return Vector(array.dtype)(array, value), generate


def _elementwise(build: Callable[[Any, Any, Any, bool], Any], doc: str) -> Any:
    def typed(typing_context: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return build(builder, arguments[0], arguments[1], a.element.signed)

        return a(a, b), generate

    typed.__doc__ = doc
    return intrinsic(typed)


def _compare(builder: Any, a: Any, operator: str, b: Any, signed: bool) -> Any:
    return builder.icmp_signed(operator, a, b) if signed else builder.icmp_unsigned(operator, a, b)


def _add(builder: Any, a: Any, b: Any, signed: bool) -> Any:
    total = builder.add(a, b)
    if signed:
        return total
    most = ir.Constant(a.type, [-1] * LANES)
    return builder.select(builder.icmp_unsigned("<", total, a), most, total)


def _smaller(builder: Any, a: Any, b: Any, signed: bool) -> Any:
    return builder.select(_compare(builder, a, "<", b, signed), a, b)


def _larger(builder: Any, a: Any, b: Any, signed: bool) -> Any:
    return builder.select(_compare(builder, a, ">", b, signed), a, b)


add = _elementwise(_add, "Return the sums of elements; unsigned sums stop at their type's largest number.")
smaller = _elementwise(_smaller, "Return the smaller element of each pair.")
larger = _elementwise(_larger, "Return the larger element of each pair.")


@intrinsic
def where_equal(typing_context: Any, a: Any, b: Any, values: Any) -> Any:
    """Return the elements of ``values`` where a equals b, and 0 elsewhere."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, right, chosen = arguments
        return builder.select(builder.icmp_signed("==", left, right), chosen, ir.Constant(chosen.type, None))

    return values(a, b, values), generate


@intrinsic
def where_less(typing_context: Any, a: Any, b: Any, left: Any, right: Any) -> Any:
    """Return the elements of ``left`` where a is less than b, and those of ``right`` elsewhere."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        less = _compare(builder, arguments[0], "<", arguments[1], a.element.signed)
        return builder.select(less, arguments[2], arguments[3])

    return left(a, b, left, right), generate


@intrinsic
def any_greater(typing_context: Any, a: Any, b: Any) -> Any:
    """Return whether a is greater than b in any element."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        greater = _compare(builder, arguments[0], ">", arguments[1], a.element.signed)
        bits = builder.bitcast(greater, ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(a, b), generate


@intrinsic
def differing(typing_context: Any, a: Any, b: Any) -> Any:
    """Return an integer whose bit i is 1 where elements i of a and b differ."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(_compare(builder, arguments[0], "!=", arguments[1], False), ir.IntType(LANES))
        return builder.zext(bits, ir.IntType(64))

    return types.int64(a, b), generate


@intrinsic
def trailing_zeros(typing_context: Any, number: Any) -> Any:
    """Return the position of the lowest 1 bit of an integer other than 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return number(number), generate


def _reduction(name: str, doc: str, widened: bool) -> Any:
    def typed(typing_context: Any, vector: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            signed, width = vector.element.signed, vector.element.bitwidth * (2 if widened else 1)
            kind = ir.VectorType(ir.IntType(width), LANES)
            extend = builder.sext if signed else builder.zext
            values = extend(arguments[0], kind) if widened else arguments[0]
            reduce = builder.module.declare_intrinsic(
                f"llvm.vector.reduce.{name.format('s' if signed else 'u')}.v{LANES}i{width}",
                fnty=ir.FunctionType(kind.element, [kind]),
            )
            result = builder.call(reduce, [values])
            return result if width == 64 else extend(result, ir.IntType(64))

        return types.int64(vector), generate

    typed.__doc__ = doc
    return intrinsic(typed)


total_of = _reduction("add", "Return the sum of the elements, added in integers of twice their width.", True)
largest_of = _reduction("{}max", "Return the largest element of a vector.", False)
