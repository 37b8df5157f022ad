"""Texts and spans: what `text.split` and `surface.features` do."""

cdef inline bint letter(Py_UCS4 c) noexcept:
    return 97 <= c <= 122 or 48 <= c <= 57


def ascii_words(str text):
    """`text.split` for text in lower-case ASCII: words, where they start and where they end."""
    cdef Py_ssize_t place = 0, start, length = len(text)
    words, starts, ends = [], [], []
    while place < length:
        if not letter(text[place]):
            place += 1
            continue
        start = place
        while place < length:
            if letter(text[place]):
                place += 1
            elif text[place] in "?*@$" and place + 1 < length and letter(text[place + 1]):
                place += 2
            else:
                break
        words.append(text[start:place])
        starts.append(start)
        ends.append(place)
    return words, starts, ends


def features(list words, Py_ssize_t letters, bint cased, bint capitals, bint opening, bint glued, bint address,
             double common, double alone, bint part, Py_ssize_t edits, double shared, str label, bint alternative,
             bint label_cased, bint text_has_capitals, stop_words):
    """`surface.features`: how a span is written, and how as the label of an entity, in the order of `FEATURES`."""
    cdef bint single = len(words) == 1
    cdef bint lower = label_cased and not cased and text_has_capitals
    cdef str squeezed = label.replace(" ", "")
    cdef str joined = words[0] if single else "".join(words)
    cdef bint respaced = not part and not edits and (joined if single else " ".join(words)) != label
    cdef bint stop = True
    for word in words:
        if word not in stop_words:
            stop = False
            break
    cdef double frequent = log1p(common)
    return [
        alternative,
        part,
        1.0 - min(1.0, <double>letters / <double>len(squeezed)) if part else 0.0,
        log(shared) if part else 0.0,
        log1p(alone) if part else 0.0,
        part and squeezed.startswith(joined),
        edits,
        8.0 * edits / letters,
        respaced,
        single,
        lower,
        lower and single,
        lower and (edits > 0 or respaced),
        lower and (address or glued),
        capitals and letters > 1 and not label_cased,
        single and opening and not capitals,
        frequent,
        frequent if lower else 0.0,
        stop,
        joined.isdigit(),
        letters <= 3,
        glued,
        address,
        log(<double>letters),
    ]
