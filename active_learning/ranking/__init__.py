"""Which of a user's own images should be labelled next: images and labels in, a ranking and a page out."""
