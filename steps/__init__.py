"""What a step is, what it needs and how it resumes. Standard library only."""
