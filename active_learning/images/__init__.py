"""A user's own images: found, decoded once, each content known by its digest; and such a folder as a data set."""
