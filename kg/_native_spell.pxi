"""Words one or two slips from a word: what `spell.nearest` does with the table of a compiled graph."""

cdef bint same_digits(str one, str other) except -1:
    cdef Py_ssize_t here = 0, there = 0
    cdef bint some = False
    while True:
        while there < len(other) and not Py_UNICODE_ISDECIMAL(other[there]):
            there += 1
        if there == len(other) and not some:
            return True
        while here < len(one) and not Py_UNICODE_ISDECIMAL(one[here]):
            here += 1
        if here == len(one) or there == len(other):
            return here == len(one) and there == len(other)
        if one[here] != other[there]:
            return False
        some, here, there = True, here + 1, there + 1


cdef bint alike(str one, Py_ssize_t here, str other, Py_ssize_t there) except -1:
    """Whether two words are the same from a place of each on."""
    if len(one) - here != len(other) - there:
        return False
    while here < len(one):
        if one[here] != other[there]:
            return False
        here, there = here + 1, there + 1
    return True


cdef bint one_slip(str one, str other) except -1:
    """`spell.neighbours`."""
    cdef Py_ssize_t start = 0, shorter = min(len(one), len(other))
    if one == other or not -1 <= len(one) - len(other) <= 1 or not same_digits(one, other):
        return False
    while start < shorter and one[start] == other[start]:
        start += 1
    if len(one) > len(other):
        return alike(one, start + 1, other, start)
    if len(one) < len(other):
        return alike(one, start, other, start + 1)
    if alike(one, start + 1, other, start + 1):
        return True
    if start + 1 >= len(one) or one[start] != other[start + 1] or one[start + 1] != other[start]:
        return False
    return alike(one, start + 2, other, start + 2)


cdef bint two_slips(str one, str other) except -1:
    """`spell._two_slips`, for an `other` of a length that is right."""
    cdef Py_ssize_t i, j, width = len(other) + 1, cost
    cdef vector[Py_ssize_t] last, before, row
    if not -2 <= len(one) - len(other) <= 2 or not same_digits(one, other):
        return False
    last.resize(width)
    before.resize(width)
    for j in range(width):
        row.push_back(j)
    for i in range(1, len(one) + 1):
        last.swap(before)
        before.swap(row)
        row[0] = i
        for j in range(1, width):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (one[i - 1] != other[j - 1]))
            if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
                cost = min(cost, last[j - 2] + 1)
            row[j] = cost
    return row[width - 1] <= 2


cdef class Speller:
    """The spellings that labels of a compiled graph have for a word. Those met are kept ready, at most `most` words.

    `hashes` are of the forms of label words (`spell.deletions`), `owners` the words that they are of; `bounds` are the
    lengths of `spell`. A word that `lexicon` knows was not misspelt twice.
    """

    cdef const uint64_t[::1] hashes
    cdef const uint32_t[::1] owners
    cdef Strings words
    cdef Lexicon lexicon
    cdef dict known
    cdef Py_ssize_t most, shortest, longest, shortest_for_two, longest_for_two

    def __init__(self, hashes, owners, Strings words, Lexicon lexicon, Py_ssize_t most, dict bounds):
        self.hashes, self.owners, self.words, self.lexicon = hashes, owners, words, lexicon
        self.most, self.known = most, {}
        self.shortest, self.longest = bounds["shortest"], bounds["longest"]
        self.shortest_for_two, self.longest_for_two = bounds["shortest_for_two"], bounds["longest_for_two"]

    cdef bint spellable(self, str word) except -1:
        """`spell.spellable`."""
        return self.shortest <= len(word) <= self.longest and not word.isdigit()

    cpdef list spellings(self, str word):
        """(slips, spelling) of the label words that are fewest slips away, in alphabetic order; none for a label word.
        """
        found = self.known.get(word)
        if found is None:
            with nogil:  # a text may have thousands of words to look for
                pass
            found = self._nearest(word)
            if len(self.known) >= self.most:
                self.known.clear()
            self.known[word] = found
        return found

    cdef list _nearest(self, str word):
        cdef list near = self._near(word, False), found = []
        cdef str other
        if word in near:
            return found
        for other in near:
            if one_slip(word, other):
                found.append((1, other))
        # What is written may lack two letters of the word that was meant.
        if not found and len(word) >= self.shortest_for_two - 2 and not self.lexicon.knows(word):
            for other in self._near(word, self.shortest_for_two - 2 <= len(word) <= self.longest_for_two):
                if self.shortest_for_two <= len(other) <= self.longest_for_two and two_slips(word, other):
                    found.append((2, other))
        found.sort()
        return found

    cdef list _near(self, str word, bint without_two):
        """The label words that have a form in common with the word, with one letter left out, or two."""
        cdef Py_ssize_t length = len(word), one, two
        cdef vector[uint64_t] sums
        cdef vector[uint32_t] found
        cdef uint32_t number
        cdef uint64_t value = 0, power = 1, total
        sums.push_back(0)
        for one in range(length):
            value += power * <uint64_t>word[one]
            power *= BASE
            sums.push_back(value)
        total = sums[length]
        self._look_up(mix(total), found)
        for one in range(length):
            self._look_up(mix(sums[one] + (total - sums[one + 1]) * INVERSE), found)
        if without_two:
            for one in range(length):
                for two in range(one + 1, length):
                    value = sums[one] + (sums[two] - sums[one + 1]) * INVERSE
                    value += (total - sums[two + 1]) * INVERSE * INVERSE
                    self._look_up(mix(value), found)
        sort(found.begin(), found.end())
        found.erase(unique(found.begin(), found.end()), found.end())
        return [self.words[number] for number in found]

    cdef int _look_up(self, uint64_t wanted, vector[uint32_t]& found) except -1:
        cdef Py_ssize_t entry = first_of(self.hashes, wanted)
        while entry < self.hashes.shape[0] and self.hashes[entry] == wanted:
            found.push_back(self.owners[entry])
            entry += 1
        return 0
