import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from groundwire.kg.hashing import hash_all, hash_slices


@given(st.lists(st.text(min_size=1), min_size=1, max_size=20))
def test_a_string_hashes_the_same_wherever_it_stands(strings: list[str]) -> None:
    joined = "".join(strings)
    ends = np.cumsum([len(s) for s in strings])
    starts = ends - [len(s) for s in strings]
    alone = np.array([hash_all([s])[0] for s in strings])
    assert (hash_slices(joined, starts, ends) == alone).all()
    assert (hash_all(strings) == alone).all()


def test_different_strings_have_different_hashes() -> None:
    strings = [f"label {number}" for number in range(100_000)]
    assert len(np.unique(hash_all(strings))) == len(strings)


def test_long_strings_hash_by_their_whole_length() -> None:
    one, other = "a" * 70_000, "a" * 69_999 + "b"
    first, second, short = hash_all([one, other, "a"]).tolist()
    assert first != second
    assert hash_all(["a"])[0] == short


def test_the_hash_is_part_of_the_format() -> None:
    # A change here makes every compiled graph unreadable: raise FORMAT_VERSION with it.
    assert hash_all(["in rainbows"])[0] == hash_all(["x", "in rainbows"])[1]
    assert f"{hash_all(['in rainbows'])[0]:016x}" == "585c49caabf1b7e8"
