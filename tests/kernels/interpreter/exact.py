"""bfloat16 in Triton's interpreter, which multiplies bit patterns and truncates: made exact here, or an error.

The interpreter keeps bfloat16 as uint16. Loads, stores and casts of it are right once the cast rounds to nearest even;
a product of matrices is right once its operands are widened; any other arithmetic on it raises, which asks of a kernel
what is right on a GPU as well: widen directly after the load.
"""
import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def widen(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bit patterns as float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(x: np.ndarray) -> np.ndarray:
    """float32 to bfloat16 bit patterns, rounded to nearest even."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded).reshape(np.shape(x))


def _coarse(handle: TensorHandle) -> bool:
    dtype = handle.dtype.scalar
    return dtype.is_bf16() or dtype.is_fp8()


def _refuse(operation):
    def checked(self, *handles):
        for handle in handles:
            if isinstance(handle, TensorHandle) and _coarse(handle):
                raise TypeError(f'arithmetic on {handle.dtype.scalar} in a kernel: widen it directly after the load')
        return operation(self, *handles)
    return checked


def _cast(original):
    def cast_impl(self, src, dst_type):
        source, target = src.dtype.scalar, dst_type.scalar
        if source.is_bf16() and not target.is_bf16():
            src = TensorHandle(widen(src.data), tl.float32)
            return src if target.is_fp32() else original(self, src, dst_type)
        if target.is_bf16() and not source.is_bf16():
            return TensorHandle(narrow(src.data.astype(np.float32)), tl.bfloat16)
        return original(self, src, dst_type)
    return cast_impl


def _dot(original):
    def create_dot(self, a, b, d, *options):
        a, b = (TensorHandle(widen(x.data), tl.float32) if x.dtype.scalar.is_bf16() else x for x in (a, b))
        # products of 16-bit numbers are summed in the accumulator's dtype, as on a GPU
        a, b = (TensorHandle(x.data.astype(d.data.dtype), d.dtype.scalar) for x in (a, b))
        return original(self, a, b, d, *options)
    return create_dot


def install() -> None:
    """Patch the interpreter of this process."""
    for name in ('binary_op', 'unary_op', 'ternary_op'):
        setattr(InterpreterBuilder, name, _refuse(getattr(InterpreterBuilder, name)))
    InterpreterBuilder.cast_impl = _cast(InterpreterBuilder.cast_impl)
    InterpreterBuilder.create_fp_to_fp = lambda self, src, dst_type, rounding: self.cast_impl(src, dst_type)
    InterpreterBuilder.create_dot = _dot(InterpreterBuilder.create_dot)
    InterpreterBuilder.get_bf16 = lambda self, value: TensorHandle(narrow(np.array([value])), tl.bfloat16)  # constants
