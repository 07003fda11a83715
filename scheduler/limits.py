"""How long and how large what is submitted may be; the command line says so before the broker."""

MAX_NAME = 120
"""Characters of a workflow's name."""
MAX_PRIORITY = 1000
"""The least is as far below 0."""
MAX_WORD = 200
"""Characters of a tag's key and of its value."""
MAX_KEY = 128
"""Characters of the key that makes a repeated submission safe."""
