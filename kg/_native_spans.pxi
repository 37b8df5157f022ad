"""Spans of a text that may be labels: what `match.find_spans` does with the tables of a compiled graph."""

cdef extern from *:
    """
    #include <tuple>
    struct GroundwireSpan {
        Py_ssize_t first, last, key, edits, part, turn, shared;
        bool operator<(const GroundwireSpan& other) const {
            return std::tie(first, last, key, edits, part, turn) <
                   std::tie(other.first, other.last, other.key, other.edits, other.part, other.turn);
        }
    };
    """
    cdef cppclass FoundSpan "GroundwireSpan":
        Py_ssize_t first, last, key, edits, part, turn, shared

cdef struct Sequence:
    Py_ssize_t first, last
    uint64_t hashed


cdef struct Hash:
    uint64_t value, power


cdef Hash sum_of(str word) except *:
    """A word's hash before it is mixed, and what those of the words behind it are multiplied by."""
    cdef Hash found
    cdef Py_UCS4 letter
    found.value, found.power = 0, 1
    for letter in word:
        found.value += found.power * <uint64_t>letter
        found.power *= BASE
    return found


cdef bint spells(str label, list words, Py_ssize_t first, Py_ssize_t last) except -1:
    """Whether the words, one after another, are the label without its spaces."""
    cdef Py_ssize_t place = 0, size = PyUnicode_GET_LENGTH(label)
    cdef Py_UCS4 letter
    cdef str word
    for word in words[first:last]:
        for letter in word:
            while place < size and label[place] == 32:
                place += 1
            if place == size or label[place] != letter:
                return False
            place += 1
    while place < size and label[place] == 32:
        place += 1
    return place == size


cdef class Finder:
    """The spans of texts that may be labels of a compiled graph, of at most `longest` words.

    `arrays` are the tables of keys and parts; `filter_shift` leaves of a hash the place of its filter bit;
    `speller` puts words right; `bounds` are those of `match`; `run_on` is the pattern of a name with an acronym behind.
    """

    cdef const uint8_t[::1] key_filter
    cdef const uint64_t[::1] key_hash, part_hash
    cdef const uint32_t[::1] part_key
    cdef Strings keys
    cdef Speller speller
    cdef object span_type, run_on
    cdef int filter_shift
    cdef Py_ssize_t longest, chunk, most_spellings, most_variants, long_word

    def __init__(self, Strings keys, Speller speller, dict arrays, int filter_shift, Py_ssize_t longest, dict bounds,
                 run_on, span_type):
        self.keys, self.speller = keys, speller
        self.key_filter, self.key_hash = arrays["key_filter"], arrays["key_hash"]
        self.part_hash, self.part_key = arrays["part_hash"], arrays["part_key"]
        self.filter_shift, self.longest, self.run_on, self.span_type = filter_shift, longest, run_on, span_type
        self.chunk, self.long_word = bounds["chunk"], bounds["long_word"]
        self.most_spellings, self.most_variants = bounds["most_spellings"], bounds["most_variants"]

    def spans(self, str text, list words, list starts, list ends):
        """`match.find_spans` on the words of a text, with where they start and end."""
        cdef vector[FoundSpan] found
        cdef vector[Py_ssize_t] capitals
        cdef Py_ssize_t begin, total = len(words), place, after = 0
        cdef bint ties = False
        if len(starts) != total or len(ends) != total:
            raise ValueError("each word starts and ends somewhere")
        if not self.key_filter.shape[0]:
            return []
        self._count_capitals(text, starts, ends, capitals)
        for begin in range(0, total, self.chunk):
            after = min(total, begin + min(self.chunk, total - begin) + self.longest - 1)
            self._part(text, words[begin:after], starts, ends, begin, min(self.chunk, total - begin), capitals, found)
        sort(found.begin(), found.end())
        spans = []
        for place in range(<Py_ssize_t>found.size()):
            if spans and found[place].first == found[after].first and found[place].last == found[after].last:
                if found[place].key == found[after].key:  # the better one stands before
                    continue
                ties = True
            after = place
            spans.append(new_tuple(self.span_type, (
                found[place].first, found[place].last, found[place].key, found[place].part != 0, found[place].edits,
                found[place].shared,
            )))
        if ties:
            return [one[3] for one in sorted([(span[0], span[1], self.keys[span[2]], span) for span in spans])]
        return spans

    cdef int _count_capitals(self, str text, list starts, list ends, vector[Py_ssize_t]& capitals) except -1:
        """How many words before each have a capital; all have, when the text has none and case says nothing."""
        cdef str lowered = text.lower(), word
        cdef bint none = text == lowered, same_size = len(text) == len(lowered), cased
        cdef Py_ssize_t place, at
        capitals.push_back(0)
        for place in range(len(starts)):
            cased = none
            if not none and same_size:
                for at in range(<Py_ssize_t>starts[place], <Py_ssize_t>ends[place]):
                    if text[at] != lowered[at]:
                        cased = True
                        break
            elif not none:
                word = text[<Py_ssize_t>starts[place]:<Py_ssize_t>ends[place]]
                cased = word != word.lower()
            capitals.push_back(capitals.back() + cased)
        return 0

    cdef int _part(self, str text, list words, list starts, list ends, Py_ssize_t begin, Py_ssize_t count,
                   vector[Py_ssize_t]& capitals, vector[FoundSpan]& found) except -1:
        """The spans that start with one of the first `count` words of a part of the text."""
        cdef vector[Hash] hashes, best
        cdef vector[char] whole
        cdef list doubtful = [], corrected = []
        cdef Py_ssize_t place, start, end, variants = 0, size = len(words), slips
        cdef const Py_ssize_t* cased = &capitals[begin]
        cdef str word, spelling
        for word in words:
            hashes.push_back(sum_of(word))
        whole.resize(size, 0)
        self._look_up(words, &hashes[0], count, -1, cased, &whole[0], begin, 0, found)
        for place in range(size):
            word = words[place]
            if whole[place] or not (cased[place + 1] > cased[place] or len(word) >= self.long_word):
                continue
            if not self.speller.spellable(word):
                continue
            doubtful.append(place)
            start, end = starts[begin + place], ends[begin + place]
            if end - start == len(word) and 65 <= text[end - 1] <= 90 and 65 <= text[end - 2] <= 90:  # A to Z
                run_on = self.run_on.fullmatch(text, start, end)
                if run_on is not None:
                    self._try(words, hashes, place, word[:<Py_ssize_t>run_on.end(1) - start], 1, cased, begin, found)
        for place in doubtful:
            spellings = self.speller.spellings(words[place])
            if spellings:
                corrected.append((place, spellings[:self.most_spellings]))
        if not corrected:
            return 0
        best = hashes
        nearest = list(words)
        for place, spellings in corrected:
            nearest[place] = spellings[0][1]
            best[place] = sum_of(nearest[place])
        for place, spellings in corrected:
            for slips, spelling in spellings:
                if variants >= self.most_variants:
                    return 0
                variants += 1
                self._try(words, hashes, place, spelling, slips, cased, begin, found)
                if len(corrected) > 1:
                    self._try(nearest, best, place, spelling, slips + 1, cased, begin, found)
        return 0

    cdef int _try(self, list words, vector[Hash]& hashes, Py_ssize_t place, str spelling, Py_ssize_t edits,
                  const Py_ssize_t* cased, Py_ssize_t begin, vector[FoundSpan]& found) except -1:
        """The spans around a word that is spelt in another way."""
        cdef Py_ssize_t low = max(0, place - self.longest + 1), high = min(<Py_ssize_t>len(words), place + self.longest)
        cdef Hash before = hashes[place]
        cdef list around = words[low:high]
        around[place - low] = spelling
        hashes[place] = sum_of(spelling)
        self._look_up(around, &hashes[low], high - low, place - low, cased + low, NULL, begin + low, edits, found)
        hashes[place] = before
        return 0

    cdef int _look_up(self, list words, const Hash* hashes, Py_ssize_t count, Py_ssize_t center,
                      const Py_ssize_t* cased, char* whole, Py_ssize_t offset, Py_ssize_t edits,
                      vector[FoundSpan]& found) except -1:
        """`match._look_up`: labels and parts among the sequences that start with one of the first `count` words, and
        hold the one in the center if it is not -1. Marks in `whole` the words of longer labels."""
        cdef Py_ssize_t first, last, entry, size = len(words), shared
        cdef vector[Sequence] maybe
        cdef vector[pair[Py_ssize_t, Py_ssize_t]] inside
        cdef pair[Py_ssize_t, Py_ssize_t] one
        cdef Sequence sequence
        cdef FoundSpan span
        cdef uint64_t value, power, mixed, bit
        cdef bint label, covered
        cdef str joined
        span.edits, span.part, span.shared = edits, 0, 1
        if center >= 0:
            count = min(count, center + 1)
        for first in range(count):
            value, power = 0, 1
            for last in range(first, min(first + self.longest, size)):
                value += hashes[last].value * power
                power *= hashes[last].power
                if last < center:
                    continue
                mixed = mix(value)
                bit = mixed >> self.filter_shift
                if not (self.key_filter[<Py_ssize_t>(bit >> 3)] >> (bit & 7)) & 1:
                    continue
                entry, label = first_of(self.key_hash, mixed), False
                while entry < self.key_hash.shape[0] and self.key_hash[entry] == mixed:
                    if spells(self.keys[entry], words, first, last + 1):
                        label = True
                        span.first, span.last, span.key = offset + first, offset + last + 1, entry
                        span.turn = found.size()
                        found.push_back(span)
                    entry += 1
                if cased[last + 1] == cased[first]:
                    continue
                sequence.first, sequence.last, sequence.hashed = first, last + 1, mixed
                maybe.push_back(sequence)
                if label and last > first:
                    inside.push_back(pair[Py_ssize_t, Py_ssize_t](first, last + 1))
                    if whole is not NULL:
                        for entry in range(first, last + 1):
                            whole[entry] = 1
        span.part = 1
        for sequence in maybe:
            covered = False
            for one in inside:
                if one.first <= sequence.first and sequence.last <= one.second:
                    covered = True
                    break
            if covered:
                continue
            shared, joined = 0, None
            entry = first_of(self.part_hash, sequence.hashed)
            while entry < self.part_hash.shape[0] and self.part_hash[entry] == sequence.hashed:
                if joined is None:
                    joined = "".join(words[sequence.first:sequence.last])
                span.key = self.part_key[entry]
                entry += 1
                # The label holds the part as a run of letters; that it holds it as a run of words, the hash says.
                if joined in (<str>self.keys[span.key]).replace(" ", ""):
                    shared += 1
                    span.first, span.last = offset + sequence.first, offset + sequence.last
                    span.turn = found.size()
                    found.push_back(span)
            for entry in range(<Py_ssize_t>found.size() - shared, <Py_ssize_t>found.size()):
                found[entry].shared = shared
        return 0
