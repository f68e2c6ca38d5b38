"""A decoder, a task and a pair in a package of their own, as someone else would publish them."""
