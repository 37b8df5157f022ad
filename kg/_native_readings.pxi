"""Readings of a text: what `readings.find_readings` does with the spans."""

cdef double dot(const double[::1] weights, double* values) except? -1.0:
    """Added up one after another, as in Python."""
    cdef double total = 0.0
    cdef Py_ssize_t place
    for place in range(weights.shape[0]):
        total += weights[place] * values[place]
    return total


cdef bint opens_sentence(str text, Py_ssize_t start, str skipped) except -1:
    cdef Py_ssize_t place = start
    while place > 0 and place > start - 16:
        place -= 1
        if PyUnicode_FindChar(skipped, text[place], 0, PyUnicode_GET_LENGTH(skipped), 1) < 0:
            return text[place] in ".!?:;"
    return True


cdef bint is_glued(str text, Py_ssize_t start, Py_ssize_t end) except -1:
    cdef Py_ssize_t length = PyUnicode_GET_LENGTH(text)
    if start > 0 and text[start - 1] in "_.\\$@&=%":
        return True
    if end >= length or text[end] not in "_\\@=.[":
        return False
    if end + 1 < length and Py_UNICODE_ISALNUM(text[end + 1]):
        return True
    return text[end:end + 3] == "[.]"


cdef class Scorer:
    """Spans of a text with the entities that they may name, and how likely that is: on the labels of a compiled graph.

    `weights` are those of `surface.FEATURES`; `bias`, `shortest_respaced` and `most_candidates` as in `readings`;
    `alone` as in `labels`; `skipped` and `in_address` as in `surface`.
    """

    cdef Strings keys
    cdef const uint64_t[::1] key_posting, lower_hash
    cdef const uint32_t[::1] posting_term, lower_count
    cdef const uint8_t[::1] posting_kind
    cdef const double[::1] weights
    cdef double bias
    cdef Py_ssize_t shortest_respaced, most_candidates
    cdef object reading_type, in_address, stop_words
    cdef str alone, skipped

    def __init__(self, Strings keys, dict arrays, weights, double bias, Py_ssize_t shortest_respaced,
                 Py_ssize_t most_candidates, reading_type, in_address, stop_words, str alone, str skipped):
        self.keys, self.weights, self.bias = keys, weights, bias
        self.key_posting, self.posting_term = arrays["key_posting"], arrays["posting_term"]
        self.posting_kind = arrays["posting_kind"]
        self.lower_hash, self.lower_count = arrays["lower_hash"], arrays["lower_count"]
        self.shortest_respaced, self.most_candidates = shortest_respaced, most_candidates
        self.reading_type, self.in_address, self.stop_words = reading_type, in_address, stop_words
        self.alone, self.skipped = alone, skipped

    def readings(self, str text, list words, list starts, list ends, list spans, bint capitals):
        """The readings of the spans, which are ordered by first and last word."""
        cdef Py_ssize_t at = 0, after, count = len(spans), first, last
        found = []
        while at < count:
            first, last = spans[at][0], spans[at][1]
            after = at + 1
            while after < count and spans[after][0] == first and spans[after][1] == last:
                after += 1
            reading = self._reading(text, words, starts, ends, first, last, spans[at:after], capitals)
            if reading is not None:
                found.append(reading)
            at = after
        return found

    cdef _reading(self, str text, list words, list starts, list ends, Py_ssize_t first, Py_ssize_t last, list spans,
                  bint capitals):
        """One span of the text, which may be several labels."""
        cdef Py_ssize_t start = starts[first], end = ends[last - 1], place, letters = 0
        cdef int64_t posting, stop
        cdef uint32_t node
        cdef uint8_t kind
        cdef double[24] values
        cdef double[4] odds
        cdef char[4] known
        cdef double common = 0.0, alone = 0.0
        cdef str written = text[start:end], label, spaced, joined
        cdef list inside = words[first:last]
        cdef bint cased = written != written.lower(), single = last - first == 1, part
        cdef bint shouted = cased and written == written.upper()
        cdef bint opening = opens_sentence(text, start, self.skipped), glued = is_glued(text, start, end)
        cdef bint address = "/" in text and self.in_address(text, start)
        cdef unordered_map[uint32_t, Py_ssize_t] where
        cdef vector[pair[double, uint32_t]] best
        for word in inside:
            letters += len(<str>word)
        joined, spaced = (inside[0], inside[0]) if single else ("".join(inside), " ".join(inside))
        if single:
            common, alone = self._count(joined), self._count(self.alone + joined)
        for span in spans:
            label, part, edits = self.keys[span[2]], span[3], span[4]
            if letters < self.shortest_respaced and not edits:
                if (f" {spaced} " not in f" {label} " and " " in spaced) if part else spaced != label:
                    continue
            posting, stop = self.key_posting[<Py_ssize_t>span[2]], self.key_posting[<Py_ssize_t>span[2] + 1]
            for place in range(4):
                known[place] = 0
            for posting in range(posting, min(stop, posting + self.most_candidates)):
                node, kind = self.posting_term[posting], self.posting_kind[posting] & 3
                if not known[kind]:
                    self._values(values, inside, joined, spaced, letters, cased, shouted, opening, glued, address,
                                 common, alone, part, edits, span[5], label, kind & 1, kind >> 1, capitals)
                    odds[kind] = self.bias + dot(self.weights, values)
                    known[kind] = 1
                if where.count(node) == 0:
                    where[node] = best.size()
                    best.push_back(pair[double, uint32_t](-odds[kind], node))
                elif -odds[kind] < best[where[node]].first:
                    best[where[node]].first = -odds[kind]
        if best.empty():
            return None
        sort(best.begin(), best.end())  # nodes are numbered in the order of their IRIs
        candidates = [(-best[place].first, best[place].second)
                      for place in range(min(<Py_ssize_t>best.size(), self.most_candidates))]
        return new_tuple(self.reading_type, (first, last, letters, candidates, candidates[0][0]))

    cdef double _count(self, str word) except? -1.0:
        """How often a word is counted in lower case."""
        cdef uint64_t hashed = hash_of(word)
        cdef Py_ssize_t place = first_of(self.lower_hash, hashed)
        return self.lower_count[place] if place < self.lower_hash.shape[0] and self.lower_hash[place] == hashed else 0

    cdef int _values(self, double* values, list words, str joined, str spaced, Py_ssize_t letters, bint cased,
                     bint shouted, bint opening, bint glued, bint address, double common, double alone, bint part,
                     Py_ssize_t edits, double shared, str label, bint alternative, bint label_cased,
                     bint capitals) except -1:
        """`surface.features`."""
        cdef bint single = len(words) == 1
        cdef bint lower = label_cased and not cased and capitals
        cdef str squeezed = label.replace(" ", "")
        cdef bint respaced = not part and not edits and spaced != label
        cdef bint stop = True
        cdef double frequent = log1p(common)
        for word in words:
            if word not in self.stop_words:
                stop = False
                break
        values[0] = alternative
        values[1] = part
        values[2] = 1.0 - min(1.0, <double>letters / <double>len(squeezed)) if part else 0.0
        values[3] = log(shared) if part else 0.0
        values[4] = log1p(alone) if part else 0.0
        values[5] = part and squeezed.startswith(joined)
        values[6] = edits
        values[7] = 8.0 * edits / letters
        values[8] = respaced
        values[9] = single
        values[10] = lower
        values[11] = lower and single
        values[12] = lower and (edits > 0 or respaced)
        values[13] = lower and (address or glued)
        values[14] = shouted and letters > 1 and not label_cased
        values[15] = single and opening and not shouted
        values[16] = frequent
        values[17] = frequent if lower else 0.0
        values[18] = stop
        values[19] = joined.isdigit()
        values[20] = letters <= 3
        values[21] = glued
        values[22] = address
        values[23] = log(<double>letters)
        return 0
