"""Triples as evidence: what `GraphIndex.evidence` does."""

new_tuple = tuple.__new__


cdef bint is_plain(str label, Py_ssize_t longest):
    """Whether a label reads as it stands: not too long, and no white space but single spaces between words."""
    cdef Py_UCS4 c
    cdef bint space = True
    if PyUnicode_GET_LENGTH(label) > longest:
        return False
    for c in label:
        if not Py_UNICODE_ISSPACE(c):
            space = False
        elif space or c != 32:
            return False
        else:
            space = True
    return not space


cdef class Writer:
    """Triples of a compiled graph as evidence. Terms and triples that were met are kept ready, at most `most` of each,
    and of terms those of at most `longest_kept` code points.

    `make_term` and `shorten` do what is rare: terms of other kinds than a named entity and a literal without language,
    and labels that don't read as they stand.
    """

    cdef Strings terms, labels
    cdef list graphs
    cdef const uint64_t[::1] conflicts
    cdef dict known_terms, known_triples
    cdef object term_type, evidence_type, make_term, shorten
    cdef str default_datatype
    cdef Py_ssize_t longest, most, longest_kept

    def __init__(self, Strings terms, Strings labels, list graphs, const uint64_t[::1] conflicts, term_type,
                 evidence_type, make_term, shorten, str default_datatype, Py_ssize_t longest, Py_ssize_t most,
                 Py_ssize_t longest_kept):
        self.terms, self.labels, self.graphs, self.conflicts = terms, labels, graphs, conflicts
        self.term_type, self.evidence_type, self.make_term, self.shorten = term_type, evidence_type, make_term, shorten
        self.default_datatype, self.longest = default_datatype, longest
        self.most, self.longest_kept = most, longest_kept
        self.known_terms, self.known_triples = {}, {}

    def evidence(self, list rows, list scores):
        """The evidence of each row (subject, predicate, object, graph), with its score as relevance."""
        cdef tuple known
        cdef Py_ssize_t place
        cdef dict triples = self.known_triples
        found = []
        for place in range(len(rows)):
            have = triples.get(rows[place])
            known = self._triple(rows[place]) if have is None else have
            found.append(new_tuple(
                self.evidence_type, (known[0], known[1], known[2], known[3], known[4], scores[place], known[5])
            ))
        return found

    cdef tuple _triple(self, tuple row):
        cdef tuple s = self._term(row[0]), p = self._term(row[1]), o = self._term(row[2])
        cdef uint64_t both = (<uint64_t>row[0] << 32) | <uint64_t>row[1]
        cdef str said = f"{<str>s[1]} {<str>p[1]}: {<str>o[1]}"
        cdef Py_ssize_t place = first_of(self.conflicts, both)
        cdef bint conflicting = place < self.conflicts.shape[0] and self.conflicts[place] == both
        found = (s[0], p[0], o[0], self.graphs[row[3]], said, conflicting)
        if row[0] in self.known_terms and row[2] in self.known_terms:  # else one of them is long
            if len(self.known_triples) >= self.most:
                self.known_triples.clear()
            self.known_triples[row] = found
        return found

    cdef tuple _term(self, node):
        """A term, and its label as it is read."""
        cdef str key, label, value, rest
        cdef Py_ssize_t end
        have = self.known_terms.get(node)
        if have is not None:
            return have
        key, label = self.terms[node], self.labels[node]
        term = None
        if PyUnicode_GET_LENGTH(key) and key[0] == 34:
            end = PyUnicode_FindChar(key, 34, 0, PyUnicode_GET_LENGTH(key), -1)
            value, rest = key[1:end], key[end + 1:]
            if value and end and (not rest or rest[:2] == "^^"):
                label = value
                term = new_tuple(self.term_type, ("literal", value, value, rest[2:] or self.default_datatype, ""))
        elif label and key[:2] != "_:":
            term = new_tuple(self.term_type, ("iri", key, label, "", ""))
        if term is None:
            term = self.make_term(key, label)
            label = term.label
        found = (term, label if is_plain(label, self.longest) else self.shorten(label))
        if PyUnicode_GET_LENGTH(key) <= self.longest_kept:
            if len(self.known_terms) >= self.most:
                self.known_terms.clear()
            self.known_terms[node] = found
        return found
