# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True, initializedcheck=False
"""The inner loops of grounding in a compiled graph, compiled.

Each function gives what the Python code that it stands for gives, bit by bit: floats are added in the same order. Tests
compare them. Bounds are checked, since a folder's content may be damaged. One module in several files, so that they may
call each other without going through Python.
"""

from cpython.unicode cimport (
    PyUnicode_DecodeUTF8, PyUnicode_FindChar, PyUnicode_GET_LENGTH, PyUnicode_Tailmatch, Py_UNICODE_ISALNUM,
    Py_UNICODE_ISDECIMAL, Py_UNICODE_ISDIGIT, Py_UNICODE_ISSPACE,
)
from libc.math cimport log, log1p
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libcpp.algorithm cimport binary_search, lower_bound, partial_sort, sort, unique
from libcpp.pair cimport pair
from libcpp.unordered_set cimport unordered_set
from libcpp.vector cimport vector

cdef extern from "<unordered_map>" namespace "std" nogil:
    # Cython's own declaration takes it that `[]` can't fail: without memory the process would abort.
    cdef cppclass unordered_map[K, V]:
        unordered_map() except +
        V& operator[](const K&) except +
        size_t count(const K&) except +

VERSION = 6  # raised with every change of a signature here: a build that is left over is not used

cdef uint64_t BASE = 0x9E3779B97F4A7C15
cdef uint64_t INVERSE = pow(0x9E3779B97F4A7C15, -1, 1 << 64)


cdef inline uint64_t mix(uint64_t value) noexcept nogil:
    value = (value ^ (value >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    value = (value ^ (value >> 27)) * <uint64_t>0x94D049BB133111EB
    return value ^ (value >> 31)


cdef Py_ssize_t first_of(const uint64_t[::1] table, uint64_t wanted) except -1:
    """Where the first entry of the sorted table stands that is not below `wanted`."""
    cdef Py_ssize_t low = 0, high = table.shape[0], middle
    while low < high:
        middle = (low + high) >> 1
        if table[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


include "_native_text.pxi"
include "_native_strings.pxi"
include "_native_words.pxi"
include "_native_spell.pxi"
include "_native_kernel.pxi"
include "_native_evidence.pxi"
include "_native_spans.pxi"
include "_native_readings.pxi"
