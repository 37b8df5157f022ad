"""The ranking of triples: what `rank.best` and `context.shared_words` do."""

cdef Py_ssize_t place_of(const int64_t[::1] query_words, int64_t word) except -2 nogil:
    """Where a word stands in the query, -1 for one that is not in it."""
    cdef Py_ssize_t low = 0, high = query_words.shape[0], middle
    while low < high:
        middle = (low + high) >> 1
        if query_words[middle] < word:
            low = middle + 1
        else:
            high = middle
    return low if low < query_words.shape[0] and query_words[low] == word else -1


cdef class Kernel:
    """The arrays of a compiled graph, and the loops over them. Read only, so any thread may call it."""

    cdef const uint8_t[::1] term_digit, terms
    cdef const uint64_t[::1] outgoing, incoming, terms_offset
    cdef const uint32_t[::1] subject, predicate, object, graph, incoming_triple, term_words, about
    cdef const int64_t[::1] term_words_offset, about_offset
    cdef const int8_t[:, ::1] term_vectors
    cdef int64_t outgoing_limit, incoming_limit, type_node
    cdef bint has_vectors
    cdef dict weights

    def __init__(self, dict arrays, terms, int64_t outgoing_limit, int64_t incoming_limit, int64_t type_node,
                 dict weights):
        self.term_digit, self.terms, self.terms_offset = arrays["term_digit"], terms, arrays["terms_offset"]
        self.outgoing, self.incoming = arrays["outgoing"], arrays["incoming"]
        self.subject, self.predicate = arrays["triple_subject"], arrays["triple_predicate"]
        self.object, self.graph = arrays["triple_object"], arrays["triple_graph"]
        self.incoming_triple = arrays["incoming_triple"]
        self.term_words_offset, self.term_words = arrays["term_words_offset"], arrays["term_words"]
        self.about_offset, self.about = arrays["about_offset"], arrays["about"]
        self.has_vectors = "term_vectors" in arrays
        if self.has_vectors:
            self.term_vectors = arrays["term_vectors"]
        self.outgoing_limit, self.incoming_limit, self.type_node = outgoing_limit, incoming_limit, type_node
        self.weights = weights

    def degree(self, Py_ssize_t node):
        """Triples with the node as subject or object."""
        return self.outgoing[node + 1] - self.outgoing[node] + self.incoming[node + 1] - self.incoming[node]

    cdef int _facts(self, vector[int64_t]& nodes, vector[uint32_t]& triples) except -1 nogil:
        """The triples of the nodes, rising, each once."""
        cdef int64_t node, start, end
        for node in nodes:
            start, end = self.outgoing[node], self.outgoing[node + 1]
            if end > self.subject.shape[0]:
                with gil:
                    raise IndexError("the folder's triples are damaged")
            for start in range(start, min(end, start + self.outgoing_limit)):
                triples.push_back(<uint32_t>start)
            start, end = self.incoming[node], self.incoming[node + 1]
            for start in range(start, min(end, start + self.incoming_limit)):
                triples.push_back(self.incoming_triple[start])
        sort(triples.begin(), triples.end())
        triples.erase(unique(triples.begin(), triples.end()), triples.end())
        return 0

    def best(self, list nodes, const int64_t[::1] query_words, const double[::1] query_weights, bint quantity,
             content_ids, const int8_t[:, ::1] content_vectors, Py_ssize_t top_k):
        """`rank.best`: the rows (subject, predicate, object, graph) of the triples that rank first, their scores, and
        the query's words that they or the nodes' labels hold."""
        cdef vector[int64_t] members = nodes
        cdef vector[int64_t] ordered = nodes
        cdef vector[uint32_t] triples, said_by, said_word
        cdef unordered_set[uint32_t] named, middles
        cdef vector[double] weights, raw
        cdef vector[uint32_t] abouts, others
        cdef unordered_map[uint64_t, int64_t] sizes
        cdef unordered_map[uint32_t, uint32_t] reached
        cdef vector[Py_ssize_t] content
        cdef vector[pair[double, uint32_t]] order
        cdef Py_ssize_t place, count, word, known = query_words.shape[0]
        cdef int64_t node, length
        cdef uint32_t s, p, o, about, other, triple
        cdef bint from_subject, to_object, path
        cdef double total, shared
        cdef dict w = self.weights
        cdef double name_weight = w["name"], length_penalty = w["length_penalty"], prior = w["prior"]
        cdef double path_bonus = w["path"], type_prior = w["type"], quantity_prior = w["quantity"]
        cdef double link_bonus = w["link"], half = w["half"], unrelated = w["unrelated"]
        cdef double predicate_meaning = w["predicate_meaning"], value_meaning = w["value_meaning"]
        cdef int64_t free_words = w["free_words"]
        if self.has_vectors and content_vectors.shape[1] != self.term_vectors.shape[1]:
            raise IndexError("the vectors of words and labels differ in width")
        self._facts(members, triples)
        if triples.empty():
            return [], [], set()
        sort(ordered.begin(), ordered.end())
        for node in members:
            for place in range(self.term_words_offset[node], self.term_words_offset[node + 1]):
                named.insert(self.term_words[place])
        for place in range(known):
            total = query_weights[place]
            weights.push_back(total * name_weight if named.count(<uint32_t>query_words[place]) else total)
        count = triples.size()
        raw.reserve(count)
        for triple in triples:
            s, p, o = self.subject[triple], self.predicate[triple], self.object[triple]
            from_subject = binary_search(ordered.begin(), ordered.end(), <int64_t>s)
            about, other = (s, o) if from_subject else (o, s)
            abouts.push_back(about)
            others.push_back(other)
            sizes[(<uint64_t>about << 32) + p] += 1
            total = self._said(query_words, weights, p, <uint32_t>raw.size(), said_by, said_word)
            shared = self._said(query_words, weights, other, <uint32_t>raw.size(), said_by, said_word)
            length = self.term_words_offset[other + 1] - self.term_words_offset[other]
            raw.push_back(total + shared / (1.0 + length_penalty * max(0, length - free_words)))
            if members.size() > 1 and p != self.type_node and about != other:
                if reached.count(other) == 0:
                    reached[other] = about
                elif reached[other] != about and self.terms[self.terms_offset[other]] != 34:  # 34: " of a literal
                    middles.insert(other)
        if self.has_vectors:
            for word, number in enumerate(content_ids):
                if number < 0 or not named.count(<uint32_t>number):
                    content.push_back(word)
        for place in range(count):
            triple, about, other = triples[place], abouts[place], others[place]
            s, p, o = self.subject[triple], self.predicate[triple], self.object[triple]
            total = raw[place] + prior / sizes[(<uint64_t>about << 32) + p]
            if members.size() > 1:
                path = middles.count(other) and p != self.type_node
                total += path * path_bonus
            if self.has_vectors:
                total += (predicate_meaning * self._near(p, content, content_vectors, unrelated)
                          + value_meaning * self._near(other, content, content_vectors, unrelated))
            total += (p == self.type_node) * type_prior
            if quantity:
                total += (self.term_digit[other] != 0) * quantity_prior
            from_subject = binary_search(ordered.begin(), ordered.end(), <int64_t>s)
            to_object = binary_search(ordered.begin(), ordered.end(), <int64_t>o)
            total += (from_subject and to_object and s != o) * link_bonus
            raw[place] = total / (total + half)
            # The pair's second part breaks ties: the order in which the triples stand.
            order.push_back(pair[double, uint32_t](-raw[place], <uint32_t>place))
        top_k = max(0, min(top_k, count))
        partial_sort(order.begin(), order.begin() + top_k, order.end())
        rows, scores, said = [], [], set()
        cdef vector[char] chosen
        chosen.resize(count, 0)
        for place in range(top_k):
            triple = triples[order[place].second]
            chosen[order[place].second] = 1
            rows.append((self.subject[triple], self.predicate[triple], self.object[triple], self.graph[triple]))
            scores.append(-order[place].first)
        for place in range(<Py_ssize_t>said_by.size()):
            if chosen[said_by[place]]:
                said.add(said_word[place])
        for p in named:
            said.add(p)
        return rows, scores, said

    cdef double _said(self, const int64_t[::1] query_words, vector[double]& weights, uint32_t node, uint32_t owner,
                      vector[uint32_t]& said_by, vector[uint32_t]& said_word) except? -1.0:
        """The weight of the query's words that a node's label holds; notes each with its owner."""
        cdef double total = 0.0
        cdef Py_ssize_t place, at, known = query_words.shape[0]
        cdef int64_t word
        if not known:
            return 0.0
        for place in range(self.term_words_offset[node], self.term_words_offset[node + 1]):
            word = self.term_words[place]
            at = place_of(query_words, word)
            if at >= 0 and weights[at] != 0.0:
                total += weights[at]
                said_by.push_back(owner)
                said_word.push_back(<uint32_t>word)
        return total

    cdef double _near(self, uint32_t node, vector[Py_ssize_t]& content, const int8_t[:, ::1] vectors,
                      double unrelated) except? -1.0:
        """How near a node's label is to the nearest word in meaning, above what unrelated words are."""
        cdef int32_t highest = 0, dot
        cdef bint first = True
        cdef Py_ssize_t word, column, width = self.term_vectors.shape[1]
        cdef const int8_t* label
        cdef const int8_t* other
        if not content.size():
            return 0.0
        label = &self.term_vectors[node, 0]
        for word in content:
            other = &vectors[word, 0]
            dot = 0
            for column in range(width):
                dot += <int32_t>label[column] * <int32_t>other[column]
            if first or dot > highest:
                highest, first = dot, False
        cdef double near = <double>(<float>highest / <float>16129.0)
        return max(0.0, near - unrelated) / (1.0 - unrelated)

    def shared(self, list nodes, const int64_t[::1] query_words, const double[::1] query_weights):
        """`context.shared_words`: for each node the weights of the query's words that its triples or its description
        hold."""
        cdef vector[int64_t] members = nodes
        cdef vector[uint32_t] triples
        cdef unordered_map[uint32_t, Py_ssize_t] owners
        cdef Py_ssize_t known = query_words.shape[0], place, word
        cdef vector[char] said, named
        cdef uint32_t triple, s, p, o
        cdef int64_t node
        said.resize(members.size() * known, 0)
        named.resize(members.size() * known, 0)
        with nogil:  # a text may have thousands of candidates, and other threads should not wait for them all
            self._facts(members, triples)
            for place in range(<Py_ssize_t>members.size()):
                owners[<uint32_t>members[place]] = place
            for triple in triples:
                s, p, o = self.subject[triple], self.predicate[triple], self.object[triple]
                if owners.count(s):
                    place = owners[s]
                    self._mark(said, place, query_words, self.term_words_offset, self.term_words, p)
                    self._mark(said, place, query_words, self.term_words_offset, self.term_words, o)
                if owners.count(o):
                    place = owners[o]
                    self._mark(said, place, query_words, self.term_words_offset, self.term_words, p)
                    self._mark(said, place, query_words, self.term_words_offset, self.term_words, s)
            for place in range(<Py_ssize_t>members.size()):
                node = members[place]
                self._mark(said, place, query_words, self.about_offset, self.about, <uint32_t>node)
                self._mark(named, place, query_words, self.term_words_offset, self.term_words, <uint32_t>node)
        cdef double name_weight = self.weights["name"]
        found = []
        for place in range(<Py_ssize_t>members.size()):
            row = []
            for word in range(known):
                if said[place * known + word]:
                    row.append(query_weights[word] * name_weight if named[place * known + word]
                               else query_weights[word])
            found.append(row)
        return found

    cdef int _mark(self, vector[char]& marks, Py_ssize_t owner, const int64_t[::1] query_words,
                   const int64_t[::1] offsets, const uint32_t[::1] words, uint32_t node) except -1 nogil:
        """Mark the query's words among those of a node, at the owner's row."""
        cdef Py_ssize_t place, at, known = query_words.shape[0]
        cdef int64_t word
        if not known:
            return 0
        for place in range(offsets[node], offsets[node + 1]):
            word = words[place]
            at = place_of(query_words, word)
            if at >= 0:
                marks[owner * known + at] = 1
        return 0
