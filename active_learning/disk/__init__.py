"""What is on disk: durable files, the record of a run, result folders, and what they were computed with."""
