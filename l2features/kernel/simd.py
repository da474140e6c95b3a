"""Vectors of 32 integers inside compiled functions, for the few loops that the loop vectoriser gets wrong.

LLVM turns them into whatever vector instructions the processor has. They live in local variables only.
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
_INDEX = ir.IntType(32)


def intrinsic(function: Callable[..., Any]) -> Any:
    """Numba's decorator, with a type."""
    return numba.extending.intrinsic(function)


class Vector(types.Type):
    """LANES elements of an integer type."""

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


def _first_lanes(builder: Any, count: Any) -> Any:
    numbers = ir.Constant(ir.VectorType(_INDEX, LANES), list(range(LANES)))
    return builder.icmp_signed("<", numbers, _spread(builder, builder.trunc(count, _INDEX)))


def _bits(builder: Any, mask: Any) -> Any:
    return builder.bitcast(mask, ir.IntType(LANES))


def _reduce(builder: Any, name: str, vector: Any) -> Any:
    kind = ir.FunctionType(vector.type.element, [vector.type])
    full_name = f"llvm.vector.reduce.{name}.v{LANES}i{vector.type.element.width}"
    return builder.call(builder.module.declare_intrinsic(full_name, (), kind), [vector])


@intrinsic
def load(typing_context: Any, array: Any, index: Any) -> Any:
    """Elements from an index of a one-dimensional array on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(signature.return_type)
        address = _address(context, builder, array, arguments[0], arguments[1], kind)
        return builder.load(address, align=array.dtype.bitwidth // 8)

    return Vector(array.dtype)(array, types.int64), generate


@intrinsic
def store(typing_context: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write all elements from an index of a one-dimensional array on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_value, index_value, value = arguments
        address = _address(context, builder, array, array_value, index_value, value.type)
        builder.store(value, address, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, vector), generate


@intrinsic
def store_first(typing_context: Any, array: Any, index: Any, vector: Any, count: Any) -> Any:
    """Write the first elements, at most all of them."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_value, index_value, value, n = arguments
        address = _address(context, builder, array, array_value, index_value, value.type)
        mask = _first_lanes(builder, n)
        kind = ir.FunctionType(ir.VoidType(), [value.type, address.type, _INDEX, mask.type])
        name = f"llvm.masked.store.v{LANES}i{value.type.element.width}.p0"
        function = builder.module.declare_intrinsic(name, (), kind)
        align = ir.Constant(_INDEX, array.dtype.bitwidth // 8)
        builder.call(function, [value, address, align, mask])
        return context.get_dummy_value()

    return types.void(array, types.int64, vector, types.int64), generate


@intrinsic
def splat(typing_context: Any, array: Any, value: Any) -> Any:
    """The same integer everywhere, for use with elements of the array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = context.cast(builder, arguments[1], value, types.int64)
        kind = context.get_value_type(array.dtype)
        return _spread(builder, wide if kind.width == 64 else builder.trunc(wide, kind))

    return Vector(array.dtype)(array, value), generate


def _elementwise(build: Callable[[Any, Any, Any], Any], doc: str) -> Any:
    def typed(typing_context: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return build(builder, *arguments)

        return a(a, b), generate

    typed.__doc__ = doc
    return intrinsic(typed)


add = _elementwise(lambda builder, a, b: builder.add(a, b), "Sums.")
smaller = _elementwise(
    lambda builder, a, b: builder.select(builder.icmp_signed("<", a, b), a, b), "The smaller ones, as signed."
)


@intrinsic
def where_equal(typing_context: Any, a: Any, b: Any, values: Any) -> Any:
    """The values where a equals b, and 0 elsewhere."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, right, chosen = arguments
        return builder.select(builder.icmp_signed("==", left, right), chosen, ir.Constant(chosen.type, None))

    return values(a, b, values), generate


@intrinsic
def any_greater(typing_context: Any, a: Any, b: Any) -> Any:
    """Whether a, as signed, is greater than b anywhere."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = _bits(builder, builder.icmp_signed(">", *arguments))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(a, b), generate


@intrinsic
def differing(typing_context: Any, a: Any, b: Any) -> Any:
    """Bits (uint64) of the lanes in which a and b differ."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.zext(_bits(builder, builder.icmp_signed("!=", *arguments)), ir.IntType(64))

    return types.uint64(a, b), generate


@intrinsic
def lowest_bit(typing_context: Any, bits: Any) -> Any:
    """Number of the lowest bit that is set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@intrinsic
def count_bits(typing_context: Any, bits: Any) -> Any:
    """How many bits are set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@intrinsic
def total(typing_context: Any, vector: Any) -> Any:
    """Sum of the elements."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _reduce(builder, "add", arguments[0])

    return vector.element(vector), generate


@intrinsic
def largest(typing_context: Any, vector: Any) -> Any:
    """Largest of the elements, as signed."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _reduce(builder, "smax", arguments[0])

    return vector.element(vector), generate


@intrinsic
def whole_roots(typing_context: Any, vector: Any, factor: Any) -> Any:
    """Square roots of the elements times a factor (float64), floored."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, scale = arguments
        kind = ir.VectorType(ir.DoubleType(), LANES)
        function_type = ir.FunctionType(kind, [kind])
        root = builder.module.declare_intrinsic(f"llvm.sqrt.v{LANES}f64", (), function_type)
        product = builder.fmul(builder.sitofp(value, kind), _spread(builder, scale))
        return builder.fptosi(builder.call(root, [product]), value.type)

    return vector(vector, types.float64), generate
