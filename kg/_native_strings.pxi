"""Strings by number, by themselves, and by their hashes."""

cdef uint64_t hash_of(str word):
    """The hash of a string (`groundwire.kg.hashing`)."""
    cdef uint64_t value = 0, power = 1
    cdef Py_UCS4 letter
    for letter in word:
        value += power * <uint64_t>letter
        power *= BASE
    return mix(value)


def places(const uint64_t[::1] table, words):
    """`tables.places`: where the hash of each word stands first in a sorted table, -1 for one that it lacks."""
    cdef Py_ssize_t place
    cdef uint64_t hashed
    found = []
    for word in words:
        hashed = hash_of(word)
        place = first_of(table, hashed)
        found.append(place if place < table.shape[0] and table[place] == hashed else -1)
    return found


cdef class Strings:
    """`strings.Strings` on a blob and its offsets."""

    cdef const uint8_t[::1] blob
    cdef const uint64_t[::1] offsets

    def __init__(self, blob, offsets):
        self.blob, self.offsets = blob, offsets

    def __len__(self):
        return self.offsets.shape[0] - 1

    def __getitem__(self, Py_ssize_t number):
        cdef uint64_t start, end
        if number < 0 or number >= self.offsets.shape[0] - 1:
            raise IndexError("there is no such string")
        start, end = self.offsets[number], self.offsets[number + 1]
        if start == end:
            return ""
        if start > end or end > <uint64_t>self.blob.shape[0]:
            raise IndexError("the folder's strings are damaged")
        return PyUnicode_DecodeUTF8(
            <const char*>&self.blob[<Py_ssize_t>start], <Py_ssize_t>(end - start), "surrogatepass"
        )

    def find(self, str text):
        """The number of a string among sorted ones, None when it is not there."""
        cdef bytes wanted = text.encode("utf-8", "surrogatepass")
        cdef const uint8_t* sought = wanted
        cdef Py_ssize_t low = 0, high = self.offsets.shape[0] - 1, middle, place, shorter, length = len(wanted)
        cdef uint64_t start, size
        cdef int order
        while low < high:
            middle = (low + high) >> 1
            start = self.offsets[middle]
            size = self.offsets[middle + 1] - start
            order = 0
            shorter = min(<Py_ssize_t>size, length)
            for place in range(shorter):
                order = <int>self.blob[<Py_ssize_t>start + place] - <int>sought[place]
                if order:
                    break
            if not order:
                order = (<Py_ssize_t>size > length) - (<Py_ssize_t>size < length)
            if not order:
                return middle
            if order < 0:
                low = middle + 1
            else:
                high = middle
        return None
