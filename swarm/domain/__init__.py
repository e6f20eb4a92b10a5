"""The nouns and rules of the system; knows the standard library and numpy only."""
