"""Halves of surrogate pairs: JSON and names from the system may hold one, but it is no character and UTF-8 has none."""

import re

SURROGATE = re.compile("[\ud800-\udfff]")
