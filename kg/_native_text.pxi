"""Texts: what `text.split` does."""

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
