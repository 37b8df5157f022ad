"""The words of a text as a graph knows them: what `stems.stem` and `GraphIndex.look_up` do."""


def stem(str word, stop_words, dict numbers, dict irregular, tuple endings, Py_ssize_t shortest, Py_ssize_t longest):
    """`stems.stem`."""
    cdef str ending
    cdef Py_ssize_t left
    if word in stop_words:
        return ""
    found = numbers.get(word)
    if found is None:
        found = irregular.get(word)
    if found is not None:
        return found
    if Py_UNICODE_ISDIGIT(word[0]):
        return (word.lstrip("0") or "0") if word.isdigit() else word
    for ending in endings:
        left = len(word) - len(ending)
        if left >= shortest and PyUnicode_Tailmatch(word, ending, 0, len(word), 1):
            if left > shortest and word[left - 1] == word[left - 2]:
                left -= 1
            word = word[:left]
            break
    return word[:longest]


cdef class Lexicon:
    """`GraphIndex.look_up` on the vocabulary of a compiled graph. What was looked up is kept ready, at most `most`
    words of at most `longest` code points.

    `stem` reduces a word, `weight` gives what sharing a word counts for that so many triples hold.
    """

    cdef const uint64_t[::1] hashes
    cdef const uint32_t[::1] frequency
    cdef dict known, weights
    cdef object stem, weight
    cdef Py_ssize_t most, longest

    def __init__(self, hashes, frequency, stem, weight, Py_ssize_t most, Py_ssize_t longest):
        self.hashes, self.frequency, self.stem, self.weight = hashes, frequency, stem, weight
        self.most, self.longest = most, longest
        self.known, self.weights = {}, {}

    def look_up(self, list words):
        """For each word its stem; the number of each stem that the graph knows; the numbers, rising, and what sharing
        each counts for."""
        cdef vector[pair[int64_t, double]] found
        cdef pair[int64_t, double] one
        cdef dict known = self.known, numbers = {}
        cdef tuple entry
        cdef str word
        cdef int64_t number
        stems = []
        for word in words:
            have = known.get(word)
            entry = self._read(word) if have is None else have
            reduced = entry[0]
            stems.append(reduced)
            number = entry[1]
            if number >= 0 and reduced not in numbers:
                numbers[reduced] = entry[1]
                found.push_back(pair[int64_t, double](number, entry[2]))
        sort(found.begin(), found.end())
        return stems, numbers, [one.first for one in found], [one.second for one in found]

    cdef bint knows(self, str word) except -1:
        """Whether some label or literal of the graph holds the word."""
        cdef tuple entry = self.known.get(word)
        return (self._read(word) if entry is None else entry)[1] >= 0

    cdef tuple _read(self, str word):
        cdef str reduced = self.stem(word)
        cdef Py_ssize_t place
        cdef uint64_t hashed
        entry = (reduced, -1, 0.0)
        if reduced:
            hashed = hash_of(reduced)
            place = first_of(self.hashes, hashed)
            if place < self.hashes.shape[0] and self.hashes[place] == hashed:
                frequency = self.frequency[place]
                weight = self.weights.get(frequency)
                if weight is None:
                    if len(self.weights) >= self.most:
                        self.weights.clear()
                    weight = self.weights[frequency] = self.weight(frequency)
                entry = (reduced, place, weight)
        if len(word) <= self.longest:
            if len(self.known) >= self.most:
                self.known.clear()
            self.known[word] = entry
        return entry
