"""The demo: a graph of countries and cities, claims about it, and the questions that it is asked."""
