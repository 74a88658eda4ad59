"""The learners: the only folder that knows torch. `active_learning.learners` says what a learner is, and lists them."""
