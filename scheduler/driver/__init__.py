"""The process of one workflow that runs as its submitter."""
